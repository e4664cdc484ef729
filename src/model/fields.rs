//! The fields of a JSON object, each taken out once by its name.
//!
//! One that nobody took is refused at the end: left out, it would be a rule that somebody believes in.

use serde_json::{Map, Value};

use super::{QueueName, Refusal};

/// What is left of an object.
#[derive(Clone, Debug, Default)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads an object, or nothing at all.
    pub fn read(body: &[u8]) -> Result<Fields, Refusal> {
        if body.is_empty() {
            return Ok(Fields(Map::new()));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(invalid("the request must be a JSON object".to_owned())),
            Err(error) => Err(invalid(format!("the request is no JSON: {error}"))),
        }
    }

    /// Refuses what nobody asked for.
    pub fn finish(self) -> Result<(), Refusal> {
        // One that says nothing is not there.
        match self.0.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((field, _)) => Err(invalid(format!("'{field}' means nothing here"))),
        }
    }

    /// A text.
    pub fn text(&mut self, field: &str) -> Result<Option<String>, Refusal> {
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(format!("'{field}' must be text"))),
        }
    }

    /// A text that must be there.
    pub fn needed(&mut self, field: &str) -> Result<String, Refusal> {
        self.text(field)?.ok_or_else(|| invalid(format!("'{field}' is missing")))
    }

    /// The name of a consumer group.
    pub fn group(&mut self) -> Result<QueueName, Refusal> {
        Ok(QueueName::new(self.needed("group")?.into())?)
    }

    /// A number, 0 or more.
    pub fn number(&mut self, field: &str) -> Result<Option<u64>, Refusal> {
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) if number.is_u64() => Ok(number.as_u64()),
            Some(_) => Err(invalid(format!("'{field}' must be a number, 0 or more"))),
        }
    }

    /// A number up to a limit, which is what is meant when it is left out.
    pub fn count(&mut self, field: &str, max: usize) -> Result<usize, Refusal> {
        let count = self.number(field)?.map_or(max, |count| usize::try_from(count).unwrap_or(max));
        Ok(count.min(max))
    }

    /// True or false, which is what is meant when it is left out.
    pub fn flag(&mut self, field: &str) -> Result<bool, Refusal> {
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(invalid(format!("'{field}' must be true or false"))),
        }
    }

    /// Seconds, with fractions of them if need be, as milliseconds; 0 is none.
    pub fn seconds(&mut self, field: &str) -> Result<Option<u64>, Refusal> {
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
                (Some(seconds), _) => Ok(Some(seconds.saturating_mul(1000))),
                (None, Some(seconds)) if seconds >= 0.0 => {
                    Ok(Some((seconds * 1000.0).round() as u64))
                }
                _ => Err(invalid(format!("'{field}' must be a number, 0 or more"))),
            },
            Some(_) => Err(invalid(format!("'{field}' must be a number, 0 or more"))),
        }
        .map(|ms: Option<u64>| ms.filter(|ms| *ms > 0))
    }

    /// An object; nothing is one without fields.
    pub fn object(&mut self, field: &str) -> Result<Map<String, Value>, Refusal> {
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(fields)) => Ok(fields),
            Some(_) => Err(invalid(format!("'{field}' must be an object"))),
        }
    }

    /// A list, or its items with commas between.
    pub fn list(&mut self, field: &str) -> Result<Vec<String>, Refusal> {
        let wrong = || invalid(format!("'{field}' must be a list"));
        let item = |value: Value| match value {
            Value::String(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            _ => Err(wrong()),
        };
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => items.into_iter().map(item).collect(),
            Some(Value::String(text)) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(items.map(str::to_owned).collect())
            }
            Some(_) => Err(wrong()),
        }
    }

    /// One of a few words; the first is the default.
    pub fn choice<T: Copy>(&mut self, field: &str, words: &[(&str, T)]) -> Result<T, Refusal> {
        let Some(said) = self.text(field)? else { return Ok(words[0].1) };
        let known = words.iter().find(|(word, _)| *word == said);
        known.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            invalid(format!("'{field}' is '{said}' and must be one of {}", words.join(", ")))
        })
    }
}

impl From<Map<String, Value>> for Fields {
    fn from(fields: Map<String, Value>) -> Fields {
        Fields(fields)
    }
}

/// Says what is wrong with what was asked.
pub fn invalid(reason: String) -> Refusal {
    Refusal::Invalid { reason }
}
