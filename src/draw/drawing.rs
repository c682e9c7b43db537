//! A drawing, as SVG and as PNG.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder as _};
use tiny_skia::{Color, LineCap, Paint, Path, PathBuilder, Pixmap, Stroke, Transform};

use crate::error::{Error, Result};
use crate::pixels::{PixelFormat, PixelView};

/// The longer side that small photos are scaled up to, in pixels.
const LONG_SIDE: usize = 800;
/// Largest scale that is chosen for a small photo.
const MAX_SCALE: usize = 16;
/// Most pixels of a drawing: 256 MB.
const MAX_PIXELS: usize = 64 << 20;

/// Colours that people with any colour vision can tell apart.
///
/// # Source
/// Okabe and Ito, Color Universal Design, 2008.
const COLORS: [[u8; 3]; 8] = [
    [0xe6, 0x9f, 0x00],
    [0x56, 0xb4, 0xe9],
    [0x00, 0x9e, 0x73],
    [0xf0, 0xe4, 0x42],
    [0xd5, 0x5e, 0x00],
    [0xcc, 0x79, 0xa7],
    [0x00, 0x72, 0xb2],
    [0xff, 0xff, 0xff],
];

/// The colour of a number, such as an octave.
pub(super) fn color(number: usize) -> [u8; 3] {
    COLORS[number % COLORS.len()]
}

/// Parameters of a drawing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct DrawParams {
    scale: Option<u32>,
}

impl DrawParams {
    /// Sets by how much the photo is enlarged (default: small ones to some 800 pixels, others not at all).
    pub fn with_scale(mut self, scale: u32) -> Self {
        self.scale = Some(scale);
        self
    }

    /// The scale for a photo.
    pub(super) fn scale_of(self, width: usize, height: usize) -> Result<usize> {
        let scale = match self.scale {
            Some(scale) => scale as usize,
            None => (LONG_SIDE / width.max(height).max(1)).clamp(1, MAX_SCALE),
        };
        let pixels = (scale * width).checked_mul(scale * height);
        match pixels {
            Some(pixels) if scale > 0 && pixels <= MAX_PIXELS => Ok(scale),
            _ if self.scale.is_none() => Err(too_large(width, height)),
            _ => Err(Error::param(
                "scale",
                scale,
                format!("1 or more, for at most {MAX_PIXELS} pixels"),
            )),
        }
    }
}

fn too_large(width: usize, height: usize) -> Error {
    Error::shape(format!("a drawing of {width} x {height} pixels, where 1 to {MAX_PIXELS} are due"))
}

#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
    pub scale: usize,
    rgb: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Circle { x: f32, y: f32, radius: f32 },
    Line { from: (f32, f32), to: (f32, f32) },
}

#[derive(Clone, Copy, Debug)]
struct Stroked {
    shape: Shape,
    color: [u8; 3],
    width: f32,
}

/// Photos with lines and circles on them.
#[derive(Clone, Debug)]
pub struct Drawing {
    width: usize,
    height: usize,
    pictures: Vec<Picture>,
    shapes: Vec<Stroked>,
}

impl Drawing {
    pub(super) fn new(width: usize, height: usize) -> Result<Self> {
        match width.checked_mul(height) {
            Some(1..=MAX_PIXELS) => {
                Ok(Self { width, height, pictures: Vec::new(), shapes: Vec::new() })
            }
            _ => Err(too_large(width, height)),
        }
    }

    /// Puts a photo at a place.
    pub(super) fn put(&mut self, photo: PixelView<'_>, (x, y): (usize, usize), scale: usize) {
        let rgb = match photo.format() {
            PixelFormat::Rgb => photo.as_bytes().to_vec(),
            PixelFormat::Bgr => {
                photo.as_bytes().chunks(3).flat_map(|p| [p[2], p[1], p[0]]).collect()
            }
            _ => photo.as_bytes().iter().flat_map(|&v| [v; 3]).collect(),
        };
        let (width, height) = (photo.width(), photo.height());
        self.pictures.push(Picture { x, y, width, height, scale, rgb });
    }

    pub(super) fn stroke(&mut self, shape: Shape, color: [u8; 3], width: f32) {
        self.shapes.push(Stroked { shape, color, width });
    }

    /// Width and height in pixels.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// The drawing as an SVG file that holds its photos.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let (width, height) = (self.width, self.height);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n"
        );
        for picture in &self.pictures {
            let Picture { x, y, width, height, scale, rgb } = picture;
            // Encoding into memory fails only for a wrong length.
            let png = png(rgb, *width, *height, ExtendedColorType::Rgb8).unwrap_or_default();
            let _ = writeln!(
                svg,
                "<image x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>",
                scale * width,
                scale * height,
                BASE64_STANDARD.encode(png)
            );
        }
        for halo in [true, false] {
            let _ = writeln!(
                svg,
                "<g fill=\"none\" stroke-linecap=\"round\"{}>",
                if halo { " stroke=\"#000\" stroke-opacity=\"0.5\"" } else { "" }
            );
            for Stroked { shape, color: [r, g, b], width } in &self.shapes {
                let width = if halo { width + 1.0 } else { *width };
                let stroke = if halo {
                    String::new()
                } else {
                    format!(" stroke=\"#{r:02x}{g:02x}{b:02x}\"")
                };
                let _ = match shape {
                    Shape::Circle { x, y, radius } => writeln!(
                        svg,
                        "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{radius:.2}\" stroke-width=\"{width}\"{stroke}/>"
                    ),
                    Shape::Line { from, to } => writeln!(
                        svg,
                        "<path d=\"M{:.2} {:.2}L{:.2} {:.2}\" stroke-width=\"{width}\"{stroke}/>",
                        from.0, from.1, to.0, to.1
                    ),
                };
            }
            svg.push_str("</g>\n");
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// The drawing as a PNG file.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no memory for it.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let (width, height) = (self.width as u32, self.height as u32);
        let no_memory =
            || Error::shape(format!("no memory for a drawing of {width} x {height} pixels"));
        let mut canvas = Pixmap::new(width, height).ok_or_else(no_memory)?;
        canvas.fill(Color::from_rgba8(32, 32, 32, 255));
        for picture in &self.pictures {
            let row_len = picture.width * picture.scale;
            for y in 0..picture.height * picture.scale {
                let row =
                    &picture.rgb[y / picture.scale * picture.width * 3..][..picture.width * 3];
                let start = ((picture.y + y) * self.width + picture.x) * 4;
                let out = &mut canvas.data_mut()[start..start + row_len * 4];
                for (x, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let pixel = &row[x / picture.scale * 3..][..3];
                    *out = [pixel[0], pixel[1], pixel[2], 255];
                }
            }
        }
        for halo in [true, false] {
            for Stroked { shape, color: [r, g, b], width } in &self.shapes {
                let mut paint = Paint { anti_alias: true, ..Paint::default() };
                let width = if halo { width + 1.0 } else { *width };
                if halo {
                    paint.set_color_rgba8(0, 0, 0, 128);
                } else {
                    paint.set_color_rgba8(*r, *g, *b, 255);
                }
                let stroke = Stroke { width, line_cap: LineCap::Round, ..Stroke::default() };
                if let Some(path) = path_of(*shape) {
                    canvas.stroke_path(&path, &paint, &stroke, Transform::identity(), None);
                }
            }
        }
        let rgb: Vec<u8> =
            canvas.data().as_chunks::<4>().0.iter().flat_map(|p| [p[0], p[1], p[2]]).collect();
        png(&rgb, self.width, self.height, ExtendedColorType::Rgb8)
    }
}

fn path_of(shape: Shape) -> Option<Path> {
    match shape {
        Shape::Circle { x, y, radius } => PathBuilder::from_circle(x, y, radius.max(0.1)),
        Shape::Line { from, to } => {
            let mut path = PathBuilder::new();
            path.move_to(from.0, from.1);
            path.line_to(to.0, to.1);
            path.finish()
        }
    }
}

fn png(bytes: &[u8], width: usize, height: usize, color: ExtendedColorType) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let done = PngEncoder::new(&mut out).write_image(bytes, width as u32, height as u32, color);
    done.map_err(|e| Error::shape(e.to_string()))?;
    Ok(out)
}
