//! Takes values out of a parsed TOML document key by key. Unlike a derived `Deserialize` it goes on after an error, so
//! that all of a file's errors are shown together, and it remembers where each value stands.

use std::collections::HashMap;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::problem::{Origin, Problem};

/// What reading leaves behind besides the values.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Everything wrong so far.
    pub problems: Vec<Problem>,
    /// Where each key's value came from.
    pub origins: HashMap<String, Origin>,
    /// Every key that was asked for, list positions left out.
    pub known: Vec<String>,
}

impl Notes {
    /// Adds a problem at the place where `key` was set.
    pub fn problem(&mut self, key: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let remedy = remedy.into();
        self.problems.push(Problem {
            key: key.into(),
            origin: self.origin(key),
            message: message.into(),
            remedy: (!remedy.is_empty()).then_some(remedy),
        });
    }

    /// Where `key` was set; a key that wasn't set itself stands where the closest one around it was.
    fn origin(&self, key: &str) -> Origin {
        let mut key = key;
        loop {
            if let Some(origin) = self.origins.get(key) {
                return origin.clone();
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return Origin::Default,
            }
        }
    }
}

/// One table of the document, whose keys are taken one after the other.
pub(super) struct Section<'i> {
    path: String,
    span: Range<usize>,
    table: DeTable<'i>,
    asked: Vec<&'static str>,
}

impl<'i> Section<'i> {
    /// The whole document.
    pub fn root(document: Spanned<DeTable<'i>>) -> Self {
        Self { path: String::new(), span: document.span(), table: document.into_inner(), asked: Vec::new() }
    }

    /// Dotted key of something in this section.
    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    /// The value of `key`, if it is set and right. `expected` says what belongs there.
    pub fn take<T: Deserialize<'i>>(&mut self, notes: &mut Notes, key: &'static str, expected: &str) -> Option<T> {
        let value = self.remove(notes, key)?;
        let full = self.key(key);
        deserialize(notes, &full, value, expected)
    }

    /// A table of its own; an empty one when it isn't set.
    pub fn section(&mut self, notes: &mut Notes, key: &'static str) -> Section<'i> {
        let path = self.key(key);
        let empty = |span| Section { path: path.clone(), span, table: DeTable::default(), asked: Vec::new() };
        let Some(value) = self.remove(notes, key) else { return empty(self.span.clone()) };
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Section { path, span, table, asked: Vec::new() },
            other => {
                let message = format!("expected a table, found {}", other.type_str());
                notes.problem(&path, message, format!("write [{path}] and its keys below it"));
                empty(span)
            }
        }
    }

    /// The tables of an array of tables. An element that isn't a table is offered to `or_else`, which may make one.
    pub fn sections(&mut self, notes: &mut Notes, key: &'static str) -> Vec<Section<'i>> {
        self.elements(notes, key)
            .into_iter()
            .filter_map(|(path, element)| {
                let span = element.span();
                match element.into_inner() {
                    DeValue::Table(table) => Some(Section { path, span, table, asked: Vec::new() }),
                    other => {
                        let message = format!("expected a table, found {}", other.type_str());
                        notes.problem(&path, message, format!("write [[{key}]] and its keys below it"));
                        None
                    }
                }
            })
            .collect()
    }

    /// The elements of an array that are right. `expected` says what belongs there.
    pub fn list<T: Deserialize<'i>>(&mut self, notes: &mut Notes, key: &'static str, expected: &str) -> Vec<T> {
        let elements = self.elements(notes, key).into_iter();
        elements.filter_map(|(path, element)| deserialize(notes, &path, element, expected)).collect()
    }

    /// The elements of an array, with their keys.
    pub fn elements(&mut self, notes: &mut Notes, key: &'static str) -> Vec<(String, Spanned<DeValue<'i>>)> {
        let Some(value) = self.remove(notes, key) else { return Vec::new() };
        let path = self.key(key);
        match value.into_inner() {
            DeValue::Array(array) => array
                .into_iter()
                .enumerate()
                .map(|(index, element)| {
                    let path = format!("{path}[{index}]");
                    notes.origins.insert(path.clone(), Origin::File(element.span()));
                    (path, element)
                })
                .collect(),
            other => {
                notes.problem(&path, format!("expected an array, found {}", other.type_str()), "");
                Vec::new()
            }
        }
    }

    /// A value that may also be a list of them.
    pub fn one_or_more<T: Deserialize<'i>>(&mut self, notes: &mut Notes, key: &'static str, expected: &str) -> Vec<T> {
        let Some(value) = self.remove(notes, key) else { return Vec::new() };
        let path = self.key(key);
        let span = value.span();
        match value.into_inner() {
            DeValue::Array(array) => array
                .into_iter()
                .enumerate()
                .filter_map(|(index, element)| deserialize(notes, &format!("{path}[{index}]"), element, expected))
                .collect(),
            other => deserialize(notes, &path, Spanned::new(span, other), expected).into_iter().collect(),
        }
    }

    /// Turns an element of [`Self::elements`] into a section, when it is a table.
    pub fn from_element(path: String, element: Spanned<DeValue<'i>>) -> Result<Self, Spanned<DeValue<'i>>> {
        let span = element.span();
        match element.into_inner() {
            DeValue::Table(table) => Ok(Section { path, span, table, asked: Vec::new() }),
            other => Err(Spanned::new(span, other)),
        }
    }

    /// Notes every key that nobody asked for, with the one that was probably meant.
    pub fn finish(self, notes: &mut Notes) {
        for (key, _) in self.table.iter() {
            let name = key.get_ref().as_ref();
            let full = self.key(name);
            let close = self.asked.iter().min_by_key(|asked| distance(asked, name));
            let remedy = match close {
                Some(close) if distance(close, name) <= 3.min(name.len().saturating_sub(1)) => {
                    format!("did you mean `{close}`?")
                }
                _ => format!("the keys here are: {}", self.asked.join(", ")),
            };
            notes.origins.insert(full.clone(), Origin::File(key.span()));
            notes.problem(&full, format!("unknown key `{name}`"), remedy);
        }
    }

    fn remove(&mut self, notes: &mut Notes, key: &'static str) -> Option<Spanned<DeValue<'i>>> {
        self.asked.push(key);
        let full = self.key(key);
        notes.known.push(without_positions(&full));
        let value = self.table.remove(key)?;
        notes.origins.insert(full, Origin::File(value.span()));
        Some(value)
    }
}

/// Deserializes one value and notes what is wrong with it at the exact place inside it.
pub(super) fn deserialize<'i, T: Deserialize<'i>>(
    notes: &mut Notes,
    path: &str,
    value: Spanned<DeValue<'i>>,
    expected: &str,
) -> Option<T> {
    remember(notes, path, &value);
    let whole = value.span();
    match T::deserialize(ValueDeserializer::from(value)) {
        Ok(value) => Some(value),
        Err(error) => {
            let span = error.span().unwrap_or(whole.clone());
            let key = innermost(notes, path, &span);
            let message = match error.message().split_once(", expected ") {
                Some((found, wanted)) if found.starts_with("invalid ") => {
                    let found = found.split_once(": ").map_or(found, |(_, found)| found);
                    let wanted = if span == whole { expected } else { wanted };
                    format!("expected {wanted}, found {found}")
                }
                _ => error.message().to_owned(),
            };
            notes.problems.push(Problem { key, origin: Origin::File(span), message, remedy: None });
            None
        }
    }
}

/// Remembers the origin of everything inside a value.
fn remember(notes: &mut Notes, path: &str, value: &Spanned<DeValue<'_>>) {
    notes.origins.insert(path.into(), Origin::File(value.span()));
    match value.get_ref() {
        DeValue::Array(array) => {
            for (index, element) in array.iter().enumerate() {
                remember(notes, &format!("{path}[{index}]"), element);
            }
        }
        DeValue::Table(table) => {
            for (key, element) in table.iter() {
                remember(notes, &format!("{path}.{}", key.get_ref()), element);
            }
        }
        _ => {}
    }
}

/// The longest key below `path` whose value contains `span`.
fn innermost(notes: &Notes, path: &str, span: &Range<usize>) -> String {
    notes
        .origins
        .iter()
        .filter_map(|(key, origin)| match origin {
            Origin::File(place) if key.starts_with(path) && place.start <= span.start && span.end <= place.end => {
                Some(key)
            }
            _ => None,
        })
        .max_by_key(|key| key.len())
        .cloned()
        .unwrap_or_else(|| path.into())
}

/// `uplink[1].name` → `uplink.name`.
fn without_positions(key: &str) -> String {
    let mut inside = false;
    key.chars()
        .filter(|c| {
            inside = (inside || *c == '[') && *c != ']';
            !inside && *c != ']'
        })
        .collect()
}

/// Edits between two short words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut previous = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = previous + usize::from(ca != *cb);
            previous = row[j + 1];
            row[j + 1] = substitute.min(previous + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
