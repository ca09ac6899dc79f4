//! What was measured, and how it is shown.

use std::fmt::Write;
use std::time::Duration;

use althing_core::{Clock, SystemClock};
use serde_json::{Value, json};

/// Stands where nothing was measured.
const NONE: &str = "–";

/// How long something took, time after time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Vec<Duration>);

impl Series {
    /// Takes the time of `work` and returns what it returned.
    pub(crate) async fn time<T>(&mut self, work: impl Future<Output = T>) -> T {
        let begin = SystemClock.now();
        let value = work.await;
        self.add(SystemClock.now().since(begin));
        value
    }

    /// Adds one time.
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Adds all times of another series.
    pub(crate) fn extend(&mut self, other: Series) {
        self.0.extend(other.0);
    }

    /// Tells whether nothing was timed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the time that this share of all stayed within.
    pub(crate) fn within(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// What one figure is to keep.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// The median is at most this.
    P50(Duration),
    /// The p99 is at most this.
    P99(Duration),
    /// The median is at most this over the floor's, or at most this share of it.
    Over(Duration, f64),
}

/// A figure beside its floor. Where nothing was timed there, the floor's name says why.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) taken: Series,
    pub(crate) floor_name: &'static str,
    pub(crate) floor: Series,
    pub(crate) goal: Option<Goal>,
}

/// Something counted, beside its floor.
#[derive(Clone, Debug)]
pub(crate) struct Count {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) floor_name: &'static str,
    /// Not a number where there is none.
    pub(crate) floor: f64,
}

/// All that a run measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    counts: Vec<Count>,
    wrong: Vec<String>,
}

impl Figure {
    fn over(&self) -> f64 {
        micros(self.taken.within(0.5)) - micros(self.floor.within(0.5))
    }

    fn ratio(&self) -> f64 {
        micros(self.taken.within(0.5)) / micros(self.floor.within(0.5)).max(0.001)
    }

    /// Says the goal in words, and whether it is met.
    fn judged(&self) -> Option<(String, bool)> {
        Some(match self.goal? {
            Goal::P50(most) => (format!("p50 ≤ {}", shown(most)), self.taken.within(0.5) <= most),
            Goal::P99(most) => (format!("p99 ≤ {}", shown(most)), self.taken.within(0.99) <= most),
            Goal::Over(most, 0.0) => (format!("≤ {} over", shown(most)), self.over() <= micros(most)),
            Goal::Over(most, share) => (
                format!("≤ {} or {:.0} % over", shown(most), share * 100.0),
                self.over() <= micros(most) || self.ratio() <= 1.0 + share,
            ),
        })
    }

    fn row(&self) -> [String; 9] {
        let goal = match self.judged() {
            None => String::new(),
            Some((goal, true)) => format!("{goal}: met"),
            Some((goal, false)) => format!("{goal}: MISSED"),
        };
        let time = |series: &Series, share| {
            if series.is_empty() { NONE.to_owned() } else { shown(series.within(share)) }
        };
        let ratio = if self.floor.is_empty() { NONE.to_owned() } else { digits(self.ratio()) };
        [
            self.name.clone(),
            self.taken.0.len().to_string(),
            time(&self.taken, 0.5),
            time(&self.taken, 0.99),
            self.floor_name.to_owned(),
            time(&self.floor, 0.5),
            time(&self.floor, 0.99),
            ratio,
            goal,
        ]
    }

    fn json(&self) -> Value {
        let series = |series: &Series| json!({ "n": series.0.len(), "p50_us": micros(series.within(0.5)), "p99_us": micros(series.within(0.99)) });
        let judged = self.judged();
        let floor = Some(&self.floor).filter(|floor| !floor.is_empty());
        json!({
            "name": self.name,
            "taken": series(&self.taken),
            "floor_name": self.floor_name,
            "floor": floor.map(series),
            "ratio": floor.map(|_| self.ratio()),
            "over_us": floor.map(|_| self.over()),
            "goal": judged.as_ref().map(|(goal, _)| goal),
            "met": judged.as_ref().map(|(_, met)| met),
        })
    }
}

impl Count {
    fn row(&self) -> [String; 5] {
        let number = |value: f64| match value {
            value if value.is_nan() => NONE.to_owned(),
            value if value.fract() == 0.0 => format!("{value:.0}"),
            value => format!("{value:.2}"),
        };
        let value = format!("{} {}", number(self.value), self.unit);
        [self.name.clone(), value, self.floor_name.to_owned(), number(self.floor), String::new()]
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "value": self.value, "unit": self.unit, "floor_name": self.floor_name, "floor": self.floor })
    }
}

impl Report {
    pub(crate) fn figure(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    pub(crate) fn count(&mut self, count: Count) {
        self.counts.push(count);
    }

    /// Notes a wrong outcome, unless `right`.
    pub(crate) fn check(&mut self, right: bool, what: impl FnOnce() -> String) {
        if !right {
            self.wrong.push(what());
        }
    }

    /// Adds all of another report.
    pub(crate) fn extend(&mut self, other: Report) {
        self.figures.extend(other.figures);
        self.counts.extend(other.counts);
        self.wrong.extend(other.wrong);
    }

    /// Returns the outcomes that were wrong.
    pub(crate) fn wrong(&self) -> &[String] {
        &self.wrong
    }

    /// Returns the figures for people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        if !self.figures.is_empty() {
            let head = ["FIGURE", "N", "P50", "P99", "FLOOR", "P50", "P99", "RATIO", "GOAL"];
            columns(&mut text, head, self.figures.iter().map(Figure::row).collect());
        }
        if !self.counts.is_empty() {
            let head = ["COUNT", "VALUE", "FLOOR", "VALUE", ""];
            columns(&mut text, head, self.counts.iter().map(Count::row).collect());
        }
        text
    }

    /// Returns the figures for programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "figures": self.figures.iter().map(Figure::json).collect::<Vec<_>>(),
            "counts": self.counts.iter().map(Count::json).collect::<Vec<_>>(),
            "wrong": self.wrong,
        })
    }
}

fn columns<const N: usize>(text: &mut String, head: [&str; N], rows: Vec<[String; N]>) {
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..N).map(width).collect();
    text.push('\n');
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Returns a time with three digits that count.
fn shown(time: Duration) -> String {
    let micros = micros(time);
    let (value, unit) = if micros >= 1000.0 { (micros / 1000.0, "ms") } else { (micros, "µs") };
    format!("{} {unit}", digits(value))
}

/// Returns a number with three digits that count, at most four of them after the point.
fn digits(value: f64) -> String {
    let places = [100.0, 10.0, 0.1, 0.01].iter().filter(|bound| value < **bound).count();
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(micros: impl IntoIterator<Item = u64>) -> Series {
        Series(micros.into_iter().map(Duration::from_micros).collect())
    }

    fn figure(taken: u64, floor: u64, goal: Goal) -> Figure {
        Figure {
            name: "x".into(),
            taken: series([taken]),
            floor_name: "y",
            floor: series([floor]),
            goal: Some(goal),
        }
    }

    #[test]
    fn a_share_of_all_stayed_within_its_percentile() {
        let series = series((1..=100).rev());
        assert_eq!(series.within(0.5), Duration::from_micros(50));
        assert_eq!(series.within(0.99), Duration::from_micros(99));
        assert_eq!(Series::default().within(0.5), Duration::ZERO);
    }

    #[test]
    fn a_goal_is_met_by_either_of_its_bounds() {
        let met = |taken, floor, goal| figure(taken, floor, goal).judged().unwrap().1;
        let either = Goal::Over(Duration::from_micros(15), 0.1);
        assert!(met(25, 10, either) && met(1100, 1000, either) && !met(1200, 1000, either));
        assert!(!met(1100, 1000, Goal::Over(Duration::from_micros(15), 0.0)));
        assert!(
            met(9, 1, Goal::P50(Duration::from_micros(9))) && !met(9, 1, Goal::P50(Duration::from_micros(8)))
        );
        assert!(
            met(9, 1, Goal::P99(Duration::from_micros(9))) && !met(9, 1, Goal::P99(Duration::from_micros(8)))
        );
    }

    #[test]
    fn a_wrong_outcome_is_kept() {
        let mut report = Report::default();
        report.check(true, || "fine".into());
        report.check(false, || "not fine".into());
        assert_eq!(report.wrong(), ["not fine"]);
    }

    #[test]
    fn a_figure_without_a_floor_shows_no_ratio() {
        let mut alone = figure(5, 1, Goal::P99(Duration::from_micros(9)));
        alone.floor = Series::default();
        assert_eq!(alone.row()[5..8], ["–", "–", "–"]);
        assert!(alone.json()["floor"].is_null() && alone.json()["ratio"].is_null());
        let mut report = Report::default();
        report.count(Count { name: "x".into(), value: 1.5, unit: "", floor_name: "y", floor: f64::NAN });
        assert!(report.json()["counts"][0]["floor"].is_null() && report.table().contains("1.50   y      –"));
    }

    #[test]
    fn times_are_shown_with_three_digits() {
        let shown = |nanos| shown(Duration::from_nanos(nanos));
        assert_eq!(
            [shown(1_234), shown(12_345), shown(123_456), shown(1_234_567)],
            ["1.23 µs", "12.3 µs", "123 µs", "1.23 ms"]
        );
        assert_eq!([digits(12.34), digits(0.0567), digits(0.00456)], ["12.3", "0.057", "0.0046"]);
    }
}
