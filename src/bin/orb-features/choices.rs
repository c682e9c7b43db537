//! The names that options take.

use std::str::FromStr;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use orb_features::Error;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Backend {
    Native,
    Opencv,
}

/// Reads the name of one of these values.
pub fn names<T, const N: usize>(
    all: [T; N],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = Error> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(all.map(name)).try_map(|name| name.parse())
}
