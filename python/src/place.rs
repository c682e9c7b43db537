//! Where a source or a result is, by the ways in which Python's libraries write it.

use percent_encoding::percent_decode_str;
use pyo3::PyResult;

use crate::errors::param;

/// A local path, or `s3://..`. Drops the scheme of `file:` URIs, replaces `s3a:` and `s3n:` by `s3:`, and restores the
/// second slash that `pathlib.Path("s3://..")` drops.
pub fn place(name: &'static str, text: &str) -> PyResult<String> {
    let Some((scheme, rest)) = text.split_once(":/") else { return Ok(text.to_owned()) };
    let below = rest.strip_prefix('/');
    match (scheme, below) {
        ("s3" | "s3a" | "s3n", _) => Ok(format!("s3://{}", below.unwrap_or(rest))),
        // `file:/x`, `file:///x` and `file://localhost/x`.
        ("file", _) => {
            let path = below.map_or(rest, |below| below.strip_prefix("localhost").unwrap_or(below));
            let path = percent_decode_str(path.trim_start_matches('/')).decode_utf8();
            let path = path.map_err(|e| param(name, text, format!("UTF-8: {e}")))?;
            Ok(format!("/{path}"))
        }
        (_, Some(_)) if scheme.len() > 1 && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            Err(param(name, text, "a folder, or s3://bucket/prefix"))
        }
        _ => Ok(text.to_owned()),
    }
}
