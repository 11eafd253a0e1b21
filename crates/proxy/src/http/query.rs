//! Parameters behind the `?`. Each is taken by its reader; what nobody has taken is a mistake that is told.

use std::ops::RangeInclusive;

use percent_encoding::percent_decode_str;

use crate::http::answer::Failure;

/// Most parameters of a request: as many properties as a message may have, and the rest.
const MAX_PARAMETERS: usize = 256;

pub(crate) struct Query {
    left: Vec<(String, String)>,
    taken: Vec<&'static str>,
}

impl Query {
    pub fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let parts = text.unwrap_or_default().split('&').filter(|part| !part.is_empty());
        let mut left = Vec::new();
        for part in parts {
            if left.len() == MAX_PARAMETERS {
                return Err(Failure::bad_request(format!("more than {MAX_PARAMETERS} parameters")));
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            left.push((decoded(&name.replace('+', " "))?, decoded(&value.replace('+', " "))?));
        }
        Ok(Query { left, taken: Vec::new() })
    }

    /// All values of a parameter that may be repeated.
    pub fn all(&mut self, name: &'static str) -> Vec<String> {
        self.taken.push(name);
        self.left.extract_if(.., |(left, _)| left == name).map(|(_, value)| value).collect()
    }

    /// A parameter that stands once.
    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, Failure> {
        let mut all = self.all(name);
        if all.len() > 1 {
            return Err(Failure::bad_request(format!("the parameter {name} stands {} times", all.len())));
        }
        Ok(all.pop())
    }

    /// A number within bounds.
    pub fn number(&mut self, name: &'static str, bounds: RangeInclusive<i64>) -> Result<Option<i64>, Failure> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        number.map(Some).ok_or_else(|| {
            let (least, most) = bounds.into_inner();
            Failure::bad_request(format!("the parameter {name} is a number from {least} to {most}, not '{text}'"))
        })
    }

    /// All parameters whose names begin with `prefix`, without it.
    pub fn beginning(&mut self, prefix: &str) -> Vec<(String, String)> {
        let found = self.left.extract_if(.., |(name, _)| name.starts_with(prefix));
        found.map(|(name, value)| (name[prefix.len()..].to_owned(), value)).collect()
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), Failure> {
        let Some((name, _)) = self.left.first() else { return Ok(()) };
        let known = match self.taken.is_empty() {
            true => "there are none here".to_owned(),
            false => format!("known are {}", self.taken.join(", ")),
        };
        Err(Failure::bad_request(format!("unknown parameter '{name}'; {known}")))
    }
}

/// Text behind percent signs.
pub(crate) fn decoded(text: &str) -> Result<String, Failure> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| Failure::bad_request(format!("'{text}' is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_taken() {
        let mut query =
            Query::parse(Some("key=a&tag=x+y%26z&key=%C3%A4&max=5&property.n=1&&empty")).unwrap_or_else(|_| panic!());
        assert_eq!(query.all("key"), ["a", "ä"]);
        assert_eq!(query.text("tag").ok().flatten().as_deref(), Some("x y&z"));
        assert_eq!(query.number("max", 1..=32).ok().flatten(), Some(5));
        assert_eq!(query.beginning("property."), [("n".to_owned(), "1".to_owned())]);
        assert!(query.end().is_err(), "'empty' was not taken");
    }

    #[test]
    fn bad_ones_are_refused() {
        assert!(Query::parse(Some("a=%FF")).is_err());
        assert!(Query::parse(Some(&"a&".repeat(300))).is_err());
        for bad in ["max=0", "max=33", "max=x", "max=", "max=1&max=1", "max=99999999999999999999"] {
            let mut query = Query::parse(Some(bad)).unwrap_or_else(|_| panic!());
            assert!(query.number("max", 1..=32).is_err(), "{bad}");
        }
    }
}
