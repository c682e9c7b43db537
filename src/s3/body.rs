//! Reads the beginning of a response body.

use aws_sdk_s3::primitives::{ByteStream, ByteStreamError};
use bytes::{Bytes, BytesMut};

/// The first `most` bytes of a body, whatever its length.
pub(super) async fn beginning(mut body: ByteStream, most: u64) -> Result<Bytes, ByteStreamError> {
    let mut bytes = BytesMut::new();
    while (bytes.len() as u64) < most
        && let Some(piece) = body.next().await
    {
        bytes.extend_from_slice(&piece?);
    }
    bytes.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_a_body_without_an_end_only_the_beginning_is_read() {
        let body = testkit::s3::endless_body(&[7; 1000]);
        let body = ByteStream::new(aws_sdk_s3::primitives::SdkBody::from_body_1_x(body));
        assert_eq!(beginning(body, 2500).await.unwrap(), vec![7; 2500]);
        let short = ByteStream::from_static(b"abc");
        assert_eq!(&beginning(short, 10).await.unwrap()[..], b"abc");
    }
}
