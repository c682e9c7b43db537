//! Keypoints and binary descriptors, as OpenCV has them.

/// The length of a descriptor in bytes: 256 bits.
pub const DESCRIPTOR_LEN: usize = 32;

/// A binary descriptor, compared by Hamming distance.
pub type Descriptor = [u8; DESCRIPTOR_LEN];

/// A keypoint, with OpenCV's fields and conventions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KeyPoint {
    /// Column in pixels of the input image; 0 is the centre of the leftmost pixel.
    pub x: f32,
    /// Row in pixels of the input image; 0 is the centre of the topmost pixel.
    pub y: f32,
    /// Diameter of the described patch, in pixels of the input image.
    pub size: f32,
    /// Orientation in degrees, [0, 360), clockwise as y points down.
    pub angle: f32,
    /// Strength: the Harris response or the FAST score, as the parameters say.
    pub response: f32,
    /// Pyramid level at which it was found.
    pub octave: i32,
}

/// Keypoints and their descriptors: the n-th descriptor belongs to the n-th keypoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// The keypoints.
    pub keypoints: Vec<KeyPoint>,
    /// One descriptor for each keypoint.
    pub descriptors: Vec<Descriptor>,
}

impl Features {
    /// The number of keypoints.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keypoints.len()
    }

    /// Whether there are no keypoints: an ordinary result for a flat or small image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keypoints.is_empty()
    }
}
