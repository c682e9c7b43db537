//! Options whose values are names from a list.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use orb_features::Error;
use orb_features::prelude::Parallelism;

use crate::exit::Exit;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Backend {
    Native,
    Opencv,
}

/// Width and height in pixels.
#[derive(Clone, Copy)]
pub struct Size(pub u32, pub u32);

impl FromStr for Size {
    type Err = String;

    /// Reads one number for both, or two: `96`, `128x96`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (width, height) = text.split_once('x').unwrap_or((text, text));
        let side =
            |text: &str| text.parse().map_err(|_| "not a number, or two as 128x96".to_owned());
        Ok(Self(side(width)?, side(height)?))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.0, self.1)
    }
}

/// The threads of a job, and those of rayon's global pool, which the PCA uses.
pub fn threads(n: u16) -> Result<Parallelism, Exit> {
    // Fails only if the global pool exists already; it is used then.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(n.into()).build_global();
    Ok(Parallelism::new(n.into())?)
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
