//! Images drawn by integer arithmetic on a hash, so that `tests/fixtures/make_golden.py` draws the same pixels.

/// A hash of position and seed.
pub fn hash(x: u32, y: u32, seed: u32) -> u32 {
    let mut h =
        x.wrapping_mul(0x9E37_79B1) ^ y.wrapping_mul(0x85EB_CA77) ^ seed.wrapping_mul(0xC2B2_AE3D);
    h ^= h >> 15;
    h = h.wrapping_mul(0x2C1B_3C6D);
    h ^= h >> 12;
    h = h.wrapping_mul(0x297A_2D39);
    h ^ (h >> 15)
}

/// The kinds of image that can be drawn.
pub const KINDS: [&str; 10] = [
    "noise", "sparse", "smooth", "steps", "gradient", "checker", "blobs", "text", "flat", "saddle",
];

/// Draws a grey image, row-major.
pub fn draw(kind: &str, width: usize, height: usize, seed: u32) -> Vec<u8> {
    let pixel: Box<dyn Fn(u32, u32) -> u8> = match kind {
        "noise" => Box::new(move |x, y| hash(x, y, seed) as u8),
        "sparse" => Box::new(move |x, y| if hash(x, y, seed).is_multiple_of(9) { 255 } else { 0 }),
        "smooth" => Box::new(move |x, y| smooth(x, y, seed)),
        "steps" => Box::new(move |x, y| smooth(x, y, seed) / 40 * 40),
        "gradient" => Box::new(move |x, y| (x * (1 + seed % 3) + y * (1 + seed % 5)) as u8),
        "checker" => {
            let side = 3 + seed % 14;
            Box::new(move |x, y| 20 + 200 * ((x / side + y / side) % 2) as u8)
        }
        "blobs" => {
            let discs: Vec<[u32; 4]> = (0..24)
                .map(|i| {
                    [
                        hash(i, 0, seed) % width as u32,
                        hash(i, 1, seed) % height as u32,
                        2 + hash(i, 2, seed) % 14,
                        hash(i, 3, seed) % 256,
                    ]
                })
                .collect();
            Box::new(move |x, y| {
                let hit = discs
                    .iter()
                    .rev()
                    .find(|d| x.abs_diff(d[0]).pow(2) + y.abs_diff(d[1]).pow(2) <= d[2].pow(2));
                hit.map_or(230, |d| d[3] as u8)
            })
        }
        "text" => Box::new(move |x, y| {
            // Glyphs of 5 x 7 dots, each 2 x 2 pixels, in cells of 14 x 18.
            let (gx, gy) = (x % 14 / 2, y % 18 / 2);
            let ink =
                gx < 5 && gy < 7 && hash(x / 14 * 8 + gx, y / 18 * 8 + gy, seed).is_multiple_of(2);
            if ink { 15 } else { 240 }
        }),
        "flat" => Box::new(move |_, _| seed as u8),
        "saddle" => Box::new(move |x, y| ((x % 16 + y % 16) * 8) as u8),
        _ => panic!("no kind of image is named {kind}"),
    };
    let mut pixels = Vec::with_capacity(width * height);
    for y in 0..height as u32 {
        pixels.extend((0..width as u32).map(|x| pixel(x, y)));
    }
    pixels
}

/// Noise on a grid of 8 pixels, interpolated bilinearly.
fn smooth(x: u32, y: u32, seed: u32) -> u8 {
    let (cx, cy, fx, fy) = (x / 8, y / 8, x % 8, y % 8);
    let at = |i, j| hash(cx + i, cy + j, seed) & 255;
    let top = at(0, 0) * (8 - fx) + at(1, 0) * fx;
    let bottom = at(0, 1) * (8 - fx) + at(1, 1) * fx;
    ((top * (8 - fy) + bottom * fy) / 64) as u8
}

/// Draws a mask: of 0 and 255 (`binary`), or with values between (`gray`).
pub fn draw_mask(kind: &str, width: usize, height: usize, seed: u32) -> Vec<u8> {
    let mut pixels = draw("smooth", width, height, seed ^ 0x55);
    match kind {
        "binary" => pixels.iter_mut().for_each(|v| *v = if *v > 110 { 255 } else { 0 }),
        "gray" => pixels.iter_mut().for_each(|v| *v = v.saturating_sub(60).saturating_mul(2)),
        _ => panic!("no kind of mask is named {kind}"),
    }
    pixels
}

/// FNV-1a, 64 bit.
pub fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}
