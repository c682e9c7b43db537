//! Options whose values are names from a list.

use std::str::FromStr;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use orb_features::Error;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Backend {
    Native,
    Opencv,
}

/// Makes a parser for the name of one of the values `all`.
pub fn names<T, const N: usize>(
    all: [T; N],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = Error> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(all.map(name)).try_map(|name| name.parse())
}
