//! The configuration as it is written: every key optional, every value of any type, everything with its place in the
//! text. Nothing is judged here but the keys themselves.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use toml::Spanned;

/// A value and where it stands.
pub type Written = Option<Spanned<Scalar>>;

/// The whole file.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    pub repository: Option<Spanned<RawRepository>>,
    pub http: Option<Spanned<RawHttp>>,
    pub server: Option<Vec<Spanned<RawServer>>>,
}

/// `[repository]`
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRepository {
    pub url: Written,
    pub endpoint: Written,
    pub region: Written,
    pub path_style: Written,
}

/// `[http]`
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawHttp {
    pub listen: Written,
}

/// One `[[server]]`
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawServer {
    pub name: Written,
    pub engine: Written,
    pub url: Written,
    pub password_file: Written,
    pub data_directory: Written,
    pub max_lag: Written,
    pub slot: Written,
    pub application_name: Written,
    pub synchronous: Written,
    pub max_slot_retained: Written,
    pub archive_spool: Written,
    pub server_id: Written,
    pub semi_sync: Written,
    pub log_source: Written,
    pub log_directory: Written,
    pub heartbeat: Written,
    pub base_backup: Option<Spanned<RawBaseBackup>>,
}

/// `[server.base_backup]`
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawBaseBackup {
    pub schedule: Written,
    pub full_every: Written,
    pub level: Written,
    pub jobs: Written,
    pub verify_unchanged: Written,
    pub method: Written,
    pub scratch_directory: Written,
    pub program: Written,
}

/// One value of any type; whether it is the right one is for whoever reads it to say.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
}

/// As a person would find it in the file.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Text(text) => write!(f, "\"{text}\""),
            Scalar::Integer(number) => number.fmt(f),
            Scalar::Float(number) => number.fmt(f),
            Scalar::Bool(flag) => flag.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        struct AnyScalar;
        impl Visitor<'_> for AnyScalar {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a single value")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(number))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(number))
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Scalar, E> {
                Ok(Scalar::Bool(flag))
            }
        }
        deserializer.deserialize_any(AnyScalar)
    }
}
