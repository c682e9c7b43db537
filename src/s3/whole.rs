//! Refuses endless answers, which the SDK would keep reading, and truncated ones, which it would accept.

use aws_sdk_s3::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextMut,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use http_body_util::Limited;

/// Longest answer other than an object, in bytes: a page of 1,000 keys has less than 4 MiB.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Refuses XML that does not end with the element that it begins with.
///
/// A truncated listing would otherwise look like a shorter one. An answer that is too long is not read to its
/// end.
#[derive(Debug)]
pub(super) struct WholeAnswers;

impl Intercept for WholeAnswers {
    fn name(&self) -> &'static str {
        "WholeAnswers"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        let operation = config.load::<Metadata>().map_or("", Metadata::name);
        // Objects are streams, whose reader has a limit of its own.
        if operation != "GetObject" || !response.status().is_success() {
            let body = std::mem::replace(response.body_mut(), SdkBody::taken());
            let limited = Limited::new(body, MAX_ANSWER_BYTES);
            *response.body_mut() = SdkBody::from_body_1_x(limited);
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        // Objects are streams and not looked at here.
        let body = response.body().bytes().unwrap_or_default();
        if response.status().is_success() && !is_whole(body) {
            return Err("the answer breaks off".into());
        }
        Ok(())
    }
}

/// Whether a body is not XML, or is XML that ends with the end of its first element.
fn is_whole(body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else { return true };
    let text = text.trim();
    let is_xml = text.starts_with('<');
    let text = match text.split_once("?>") {
        Some((start, rest)) if start.starts_with("<?") => rest.trim_start(),
        _ => text,
    };
    let Some(rest) = text.strip_prefix('<') else { return !is_xml };
    let name = rest.split([' ', '>', '/', '\n', '\t', '\r']).next().unwrap_or_default();
    text.ends_with(&format!("</{name}>")) || (text.ends_with("/>") && !text[1..].contains('<'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_is_whole() {
        let text = "<?xml version=\"1.0\"?>\n<List a=\"b\"><Key>x</Key></List>\n";
        for at in 0..text.len() - 1 {
            // An empty body is whole: many requests are answered with one.
            assert_eq!(is_whole(&text.as_bytes()[..at]), at == 0, "{:?}", &text[..at]);
        }
        for whole in [text, "", "<A/>", "<A></A>", "{}", "\n"] {
            assert!(is_whole(whole.as_bytes()), "{whole}");
        }
    }
}
