//! Which keys exist. The serde types are the one list of them; this asks the types, finds keys that they do not have,
//! and names a key by its place in the text.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::forward_to_deserialize_any;
use toml::de::{DeTable, DeValue};

use super::raw::{RawBaseBackup, RawConfig, RawHttp, RawRepository, RawServer};

/// Two names closer than this (1 is equal, by Jaro and Winkler) are taken for a misspelling.
const MISSPELT: f64 = 0.8;

/// A section of the file and the keys it may hold.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its dotted name, empty for the file itself.
    pub name: &'static str,
    /// Its header, as written.
    pub header: &'static str,
    /// Its keys, sections below it included.
    pub keys: &'static [&'static str],
}

/// All sections, from the outermost in.
pub fn sections() -> [Section; 5] {
    let section = |name, header, keys| Section { name, header, keys };
    [
        section("", "", fields_of::<RawConfig>()),
        section("repository", "[repository]", fields_of::<RawRepository>()),
        section("http", "[http]", fields_of::<RawHttp>()),
        section("server", "[[server]]", fields_of::<RawServer>()),
        section(
            "server.base_backup",
            "[server.base_backup]",
            fields_of::<RawBaseBackup>(),
        ),
    ]
}

/// A key that no section of its name has.
#[derive(Debug)]
pub struct UnknownKey {
    /// Its dotted name.
    pub path: String,
    /// Where it stands.
    pub span: Range<usize>,
    /// What to say about it.
    pub message: String,
}

/// Every key of the document that the types do not have.
pub fn unknown_keys(document: &DeTable<'_>) -> Vec<UnknownKey> {
    let mut found = Vec::new();
    walk(document, "", &mut |path, key_span, _| {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        let known = sections().into_iter().find(|known| known.name == section);
        if known.is_some_and(|known| !known.keys.contains(&key)) {
            found.push(UnknownKey {
                path: path.to_owned(),
                span: key_span,
                message: explain(section, key),
            });
        }
    });
    found
}

/// The dotted name of the innermost key whose name or value covers `offset`.
pub fn key_at(document: &DeTable<'_>, offset: usize) -> Option<String> {
    let mut innermost = None;
    walk(document, "", &mut |path, key_span, value_span| {
        if key_span.contains(&offset) || value_span.contains(&offset) {
            innermost = Some(path.to_owned());
        }
    });
    innermost
}

/// Told the path of a key, where it stands, and where its value does.
type Visit<'a> = dyn FnMut(&str, Range<usize>, Range<usize>) + 'a;

/// Visits every key, outer ones before those inside them.
fn walk(table: &DeTable<'_>, prefix: &str, visit: &mut Visit<'_>) {
    for (key, value) in table {
        let path = match prefix {
            "" => key.get_ref().to_string(),
            _ => format!("{prefix}.{}", key.get_ref()),
        };
        visit(&path, key.span(), value.span());
        match value.get_ref() {
            DeValue::Table(inner) => walk(inner, &path, visit),
            DeValue::Array(items) => {
                let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                tables.for_each(|inner| walk(inner, &path, visit));
            }
            _ => {}
        }
    }
}

fn explain(section: &str, key: &str) -> String {
    let all = sections();
    let here = all.iter().find(|known| known.name == section);
    let keys = here.map_or(&[] as &[&str], |known| known.keys);
    let nearest = keys
        .iter()
        .map(|known| (strsim::jaro_winkler(key, known), *known))
        .filter(|(likeness, _)| *likeness >= MISSPELT)
        .max_by(|left, right| left.0.total_cmp(&right.0));
    if let Some((_, name)) = nearest {
        return format!("there is no such key; did you mean \"{name}\"?");
    }
    if let Some(other) = all.iter().find(|known| known.keys.contains(&key)) {
        return format!("there is no such key here; it belongs {}", place_of(other.header));
    }
    format!("there is no such key; expected one of {}", keys.join(", "))
}

fn place_of(header: &str) -> String {
    match header {
        "" => "at the top of the file".to_owned(),
        _ => format!("under {header}"),
    }
}

/// The field names that a struct's derived `Deserialize` asks for.
fn fields_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // The probe hands out no value, so this always ends in an error, after the names were seen.
    let _ = T::deserialize(FieldProbe(&mut fields));
    fields
}

struct FieldProbe<'a>(&'a mut &'static [&'static str]);

/// The probe's only answer.
#[derive(Debug)]
struct Seen;

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("field names were seen")
    }
}

impl std::error::Error for Seen {}

impl serde::de::Error for Seen {
    fn custom<T: fmt::Display>(_: T) -> Seen {
        Seen
    }
}

impl<'de> Deserializer<'de> for FieldProbe<'_> {
    type Error = Seen;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Seen> {
        Err(Seen)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Seen> {
        *self.0 = fields;
        Err(Seen)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
