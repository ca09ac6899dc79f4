//! The settings of a policy, as its guest sees them.

use althing_core::{Error, Kind, Result};
use serde_json::{Map, Value};

/// Settings as JSON. The order of the names is fixed, so the same settings are the same text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    values: Map<String, Value>,
    json: String,
}

impl Settings {
    pub(crate) fn new(table: &toml::Table) -> Result<Settings> {
        let values = object(table)?;
        let json = Value::Object(values.clone()).to_string();
        Ok(Settings { values, json })
    }

    /// Returns all of them as one JSON object.
    pub(crate) fn json(&self) -> &str {
        &self.json
    }

    /// Returns one of them: text as it is, anything else as JSON.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        Some(match self.values.get(name)? {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }
}

fn object(table: &toml::Table) -> Result<Map<String, Value>> {
    table.iter().map(|(name, value)| Ok((name.clone(), json(name, value)?))).collect()
}

/// Returns a value of a TOML file as JSON. `name` is for the error.
pub(super) fn json(name: &str, value: &toml::Value) -> Result<Value> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text.clone()),
        toml::Value::Integer(number) => Value::from(*number),
        toml::Value::Boolean(truth) => Value::Bool(*truth),
        toml::Value::Datetime(moment) => Value::String(moment.to_string()),
        toml::Value::Table(table) => Value::Object(object(table)?),
        toml::Value::Array(items) => {
            Value::Array(items.iter().map(|item| json(name, item)).collect::<Result<_>>()?)
        }
        toml::Value::Float(number) => {
            Value::Number(serde_json::Number::from_f64(*number).ok_or_else(|| {
                Error::new(
                    Kind::Invalid,
                    "open bundle",
                    format!("the setting {name:?} is not a finite number"),
                )
                .advise("Guests read settings as JSON, which has no infinity and no NaN")
            })?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_text_as_it_is_and_all_else_as_json() {
        let table = toml::from_str("zone = 'eu'\nmargin = 3\nlist = [1.5, true]").unwrap();
        let settings = Settings::new(&table).unwrap();
        assert_eq!(settings.json(), r#"{"list":[1.5,true],"margin":3,"zone":"eu"}"#);
        assert_eq!(settings.get("zone").as_deref(), Some("eu"));
        assert_eq!(settings.get("list").as_deref(), Some("[1.5,true]"));
        assert_eq!(settings.get("other"), None);
        let infinite = toml::from_str("margin = inf").unwrap();
        assert!(Settings::new(&infinite).is_err());
    }
}
