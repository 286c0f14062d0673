//! One page of a list. Its items are handed over one by one as they are read: as a tree of values each takes ten times the
//! room of its text, and only one of them is needed at a time.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;
use std::fmt;

/// What a page says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PageMeta {
    /// The version of the list.
    pub resource_version: String,
    /// What to ask the next page with.
    #[serde(rename = "continue")]
    pub next: Option<String>,
}

/// Reads a page. A broken item does not break it, as long as it is JSON.
///
/// # Errors
/// When the text is no JSON object, or its `items` or `metadata` are of another type. Items that came before were handed
/// over by then.
pub fn read(text: &str, take: impl FnMut(&Value)) -> serde_json::Result<PageMeta> {
    let mut json = serde_json::Deserializer::from_str(text);
    let meta = json.deserialize_map(Page(take))?;
    json.end()?;
    Ok(meta)
}

struct Page<F>(F);

impl<'de, F: FnMut(&Value)> Visitor<'de> for Page<F> {
    type Value = PageMeta;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of the Kubernetes API")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<PageMeta, A::Error> {
        let mut meta = PageMeta::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "metadata" => meta = map.next_value()?,
                "items" => map.next_value_seed(Items(&mut self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(meta)
    }
}

struct Items<'a, F>(&'a mut F);

impl<'de, F: FnMut(&Value)> DeserializeSeed<'de> for Items<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&Value)> Visitor<'de> for Items<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    /// Go writes an empty list as `null` where nobody made one.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<Value>()? {
            (self.0)(&item);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Result<(Vec<String>, PageMeta), String> {
        let mut items = Vec::new();
        let meta = read(text, |item| items.push(item.to_string())).map_err(|error| error.to_string())?;
        Ok((items, meta))
    }

    #[test]
    fn items_come_one_by_one_wherever_the_metadata_stands() {
        let text = r#"{"kind": "L", "items": [{"a": 1}, 7], "metadata": {"resourceVersion": "5", "continue": "c"}}"#;
        let (found, meta) = items(text).unwrap();
        assert_eq!(found, [r#"{"a":1}"#, "7"]);
        assert_eq!((meta.resource_version.as_str(), meta.next.as_deref()), ("5", Some("c")));
        let (found, meta) = items(r#"{"metadata": {"resourceVersion": "5", "x": []}, "items": null}"#).unwrap();
        assert_eq!((found.len(), meta.resource_version.as_str(), meta.next), (0, "5", None));
        assert_eq!(items("{}").unwrap().0.len(), 0);
    }

    #[test]
    fn what_is_no_page_is_refused() {
        for text in ["", "[]", "nonsense", r#"{"items": 5}"#, r#"{"items": [{]}"#, r#"{"items": []} x"#] {
            assert!(items(text).is_err(), "{text}");
        }
    }
}
