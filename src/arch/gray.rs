//! Colour to grey.

/// Turns pixels of three or four bytes into grey values. `weights` are the weights of the first three
/// bytes, in units of 2^-15.
///
/// # Source
/// `cv::cvtColor`, `COLOR_BGR2GRAY`, 8 bit.
#[inline(always)]
pub(super) fn gray(colors: &[u8], channels: usize, weights: [u32; 3], out: &mut [u8]) {
    if channels == 3 {
        convert::<3>(colors, weights, out);
    } else {
        convert::<4>(colors, weights, out);
    }
}

#[inline(always)]
fn convert<const CHANNELS: usize>(colors: &[u8], [a, b, c]: [u32; 3], out: &mut [u8]) {
    for (color, out) in colors.as_chunks::<CHANNELS>().0.iter().zip(out) {
        let (x, y, z) = (u32::from(color[0]), u32::from(color[1]), u32::from(color[2]));
        *out = ((x * a + y * b + z * c + 16384) >> 15) as u8;
    }
}
