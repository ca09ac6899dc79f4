//! SQL: the row remembers the highest token, and the statement that writes refuses a lower one.
//!
//! The column `fence` is added to the table that holds the data. A guarded statement locks the row, compares and writes
//! at once; what else the same transaction writes *after* it is fenced too, because a higher token waits for the end
//! of the transaction. So a table of nothing but resources and their tokens fences any transaction that begins with
//! its [`upsert`](Table::upsert).
//!
//! [`verdict`](Table::verdict) tells what came of it. A row that is deleted forgets its token; mark it as deleted instead. Who is
//! stopped *inside* a transaction keeps others from the row until the server ends its connection: better one statement
//! alone than a long transaction.

use althing_core::{Error, Kind, Result, Revision};

use crate::Stale;

/// The name of the column.
pub const COLUMN: &str = "fence";

/// Whose SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL, 9.5 or newer.
    Postgresql,
    /// MySQL and MariaDB. The table has no unique key but the one named here: an upsert might change another row.
    Mysql,
}

/// A table whose rows are written to by whoever holds a lock.
///
/// Names are quoted, part by part where there are dots. The statements take their parameters by place: those of the key, those
/// of the columns, then the token, unless they say otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// Whose SQL it is written for.
    pub dialect: Dialect,
    /// Its name: `orders`, or `shop.orders`.
    pub name: &'a str,
    /// The columns of its primary key.
    pub key: &'a [&'a str],
    /// The columns that are written; none for a table that only keeps tokens.
    pub columns: &'a [&'a str],
}

/// What came of a guarded statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was let in, and wrote.
    Written,
    /// There was no such row to update; after an upsert, one was deleted meanwhile. Nothing was written.
    NoRow,
    /// It was refused. In MySQL, outside of a transaction, it may have been written and overtaken before it was asked about.
    Stale(Stale),
}

impl Table<'_> {
    /// Adds the column to a table that has none. Rows that are there let every token in.
    pub fn add_column(&self) -> String {
        format!("ALTER TABLE {} ADD COLUMN {} BIGINT NOT NULL DEFAULT 0", self.quoted(), self.quote(COLUMN))
    }

    /// Updates a row unless it has seen a higher token.
    ///
    /// For MySQL the parameters are the columns, the token, the key, and the token again.
    pub fn update(&self) -> String {
        let (keys, all) = (self.key.len(), self.key.len() + self.columns.len() + 1);
        let fence = self.quote(COLUMN);
        let written = self.columns.iter().chain([&COLUMN]).enumerate();
        let set =
            written.map(|(at, column)| format!("{} = {}", self.quote(column), self.place(keys + at + 1)));
        let key = self.key.iter().enumerate();
        let key = key.map(|(at, column)| format!("{} = {}", self.quote(column), self.place(at + 1)));
        let [set, key] = [joined(set, ", "), joined(key, " AND ")];
        format!("UPDATE {} SET {set} WHERE {key} AND {fence} <= {}", self.quoted(), self.place(all))
    }

    /// Inserts a row, or updates it unless it has seen a higher token.
    pub fn upsert(&self) -> String {
        let all: Vec<_> = self.key.iter().chain(self.columns).chain([&COLUMN]).collect();
        let names = joined(all.iter().map(|column| self.quote(column)), ", ");
        let places = joined((1..=all.len()).map(|at| self.place(at)), ", ");
        let insert = format!("INSERT INTO {} ({names}) VALUES ({places})", self.quoted());
        match self.dialect {
            Dialect::Postgresql => format!("{insert} {}", self.on_conflict()),
            Dialect::Mysql => format!("{insert} {}", self.on_duplicate()),
        }
    }

    /// Reads the highest token that the row has seen; the parameters are those of the key. In MySQL it locks the row, because a
    /// transaction would else be shown what was there when it began.
    pub fn seen(&self) -> String {
        let key = self.key.iter().enumerate();
        let key = joined(
            key.map(|(at, column)| format!("{} = {}", self.quote(column), self.place(at + 1))),
            " AND ",
        );
        let lock = if self.dialect == Dialect::Mysql { " FOR UPDATE" } else { "" };
        format!("SELECT {} FROM {} WHERE {key}{lock}", self.quote(COLUMN), self.quoted())
    }

    /// Tells what came of a guarded statement by `token`, from the number of rows that the server says it wrote, and from what
    /// the row has [`seen`](Self::seen) after it.
    ///
    /// PostgreSQL need not be asked what was seen where a row was written. MySQL has to: what it says it wrote depends on the
    /// client, and many count a refused upsert as a row that was found.
    pub fn verdict(&self, token: Revision, written: u64, seen: Option<Revision>) -> Verdict {
        match (self.dialect, seen) {
            (Dialect::Postgresql, _) if written > 0 => Verdict::Written,
            (Dialect::Mysql, Some(seen)) if seen == token => Verdict::Written,
            (_, Some(seen)) if seen > token => Verdict::Stale(Stale { token, seen }),
            _ => Verdict::NoRow,
        }
    }

    fn on_conflict(&self) -> String {
        let key = joined(self.key.iter().map(|column| self.quote(column)), ", ");
        let fence = self.quote(COLUMN);
        let new = |column: &str| format!("{0} = EXCLUDED.{0}", self.quote(column));
        let set = joined(self.columns.iter().chain([&COLUMN]).map(|column| new(column)), ", ");
        let held = self.name.rsplit('.').next().map(|name| self.quote(name)).unwrap_or_default();
        format!("ON CONFLICT ({key}) DO UPDATE SET {set} WHERE {held}.{fence} <= EXCLUDED.{fence}")
    }

    /// MySQL assigns from left to right, so the token comes last: the columns before it are compared with the old one.
    fn on_duplicate(&self) -> String {
        let fence = self.quote(COLUMN);
        let new = |column: &&str| {
            let column = self.quote(column);
            format!("{column} = IF(VALUES({fence}) >= {fence}, VALUES({column}), {column}), ")
        };
        let set: String = self.columns.iter().map(new).collect();
        format!("ON DUPLICATE KEY UPDATE {set}{fence} = GREATEST({fence}, VALUES({fence}))")
    }

    fn quoted(&self) -> String {
        joined(self.name.split('.').map(|part| self.quote(part)), ".")
    }

    fn quote(&self, name: &str) -> String {
        let mark = if self.dialect == Dialect::Mysql { "`" } else { "\"" };
        format!("{mark}{}{mark}", name.replace(mark, &mark.repeat(2)))
    }

    fn place(&self, at: usize) -> String {
        match self.dialect {
            Dialect::Postgresql => format!("${at}"),
            Dialect::Mysql => "?".to_owned(),
        }
    }
}

/// Returns a token as the column holds it. A number that no backend gives out is refused: it would lock out all others.
pub fn parameter(token: Revision) -> Result<i64> {
    i64::try_from(token.0).map_err(|_| {
        Error::new(Kind::Invalid, "write", format!("{} is not a token: none is so high", token.0))
    })
}

fn joined(parts: impl Iterator<Item = String>, between: &str) -> String {
    parts.collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(dialect: Dialect) -> Table<'static> {
        Table { dialect, name: "shop.orders", key: &["id"], columns: &["state"] }
    }

    #[test]
    fn the_readme_shows_what_is_made_here() {
        let readme = include_str!("../../../README.md");
        let lines = readme.lines().map(|line| line.split("--").next().unwrap_or_default());
        let readme = lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
        let table = Table { dialect: Dialect::Postgresql, name: "jobs", key: &["name"], columns: &["state"] };
        for statement in [table.add_column(), table.update()] {
            let shown = format!("{};", statement.replace('"', ""));
            assert!(readme.contains(&shown), "README does not show {shown}");
        }
    }

    #[test]
    fn postgresql_compares_in_the_statement_that_writes() {
        let table = orders(Dialect::Postgresql);
        assert_eq!(
            table.update(),
            r#"UPDATE "shop"."orders" SET "state" = $2, "fence" = $3 WHERE "id" = $1 AND "fence" <= $3"#
        );
        assert_eq!(
            table.upsert(),
            r#"INSERT INTO "shop"."orders" ("id", "state", "fence") VALUES ($1, $2, $3) ON CONFLICT ("id") DO UPDATE SET "state" = EXCLUDED."state", "fence" = EXCLUDED."fence" WHERE "orders"."fence" <= EXCLUDED."fence""#
        );
        assert_eq!(table.seen(), r#"SELECT "fence" FROM "shop"."orders" WHERE "id" = $1"#);
    }

    #[test]
    fn mysql_compares_in_the_statement_that_writes_and_assigns_the_token_last() {
        let table = orders(Dialect::Mysql);
        assert_eq!(
            table.update(),
            "UPDATE `shop`.`orders` SET `state` = ?, `fence` = ? WHERE `id` = ? AND `fence` <= ?"
        );
        assert_eq!(
            table.upsert(),
            "INSERT INTO `shop`.`orders` (`id`, `state`, `fence`) VALUES (?, ?, ?) ON DUPLICATE KEY UPDATE `state` = IF(VALUES(`fence`) >= `fence`, VALUES(`state`), `state`), `fence` = GREATEST(`fence`, VALUES(`fence`))"
        );
        assert_eq!(table.seen(), "SELECT `fence` FROM `shop`.`orders` WHERE `id` = ? FOR UPDATE");
    }

    #[test]
    fn a_table_of_tokens_alone_and_keys_of_several_columns_are_written_too() {
        let table = Table { dialect: Dialect::Postgresql, name: "a\"b", key: &["x", "y"], columns: &[] };
        assert_eq!(
            table.upsert(),
            r#"INSERT INTO "a""b" ("x", "y", "fence") VALUES ($1, $2, $3) ON CONFLICT ("x", "y") DO UPDATE SET "fence" = EXCLUDED."fence" WHERE "a""b"."fence" <= EXCLUDED."fence""#
        );
        assert_eq!(
            table.update(),
            r#"UPDATE "a""b" SET "fence" = $3 WHERE "x" = $1 AND "y" = $2 AND "fence" <= $3"#
        );
        assert_eq!(table.add_column(), r#"ALTER TABLE "a""b" ADD COLUMN "fence" BIGINT NOT NULL DEFAULT 0"#);
    }

    #[track_caller]
    fn check_verdict(dialect: Dialect, written: u64, seen: Option<u64>, verdict: Verdict) {
        assert_eq!(orders(dialect).verdict(Revision(7), written, seen.map(Revision)), verdict);
    }

    #[test]
    fn postgresql_is_believed_what_it_wrote() {
        let stale = Verdict::Stale(Stale { token: Revision(7), seen: Revision(8) });
        check_verdict(Dialect::Postgresql, 1, None, Verdict::Written);
        check_verdict(Dialect::Postgresql, 0, Some(8), stale);
        check_verdict(Dialect::Postgresql, 0, None, Verdict::NoRow);
        check_verdict(Dialect::Postgresql, 0, Some(7), Verdict::NoRow);
    }

    #[test]
    fn mysql_is_asked_what_it_has_whatever_it_counts() {
        let stale = Verdict::Stale(Stale { token: Revision(7), seen: Revision(8) });
        for written in 0..3 {
            check_verdict(Dialect::Mysql, written, Some(7), Verdict::Written);
            check_verdict(Dialect::Mysql, written, Some(8), stale);
            check_verdict(Dialect::Mysql, written, Some(6), Verdict::NoRow);
            check_verdict(Dialect::Mysql, written, None, Verdict::NoRow);
        }
    }

    #[test]
    fn a_number_that_is_no_token_is_not_written() {
        assert_eq!(parameter(Revision(7)).unwrap(), 7);
        assert_eq!(parameter(Revision(u64::MAX)).unwrap_err().kind(), Kind::Invalid);
    }
}
