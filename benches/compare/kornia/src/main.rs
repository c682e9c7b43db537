//! kornia-imgproc's side of the comparison: `compare-kornia FOLDER N_FEATURES` runs its ORB on each `*.pgm` of a
//! folder, on one thread, and prints the seconds per image and the total number of features.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kornia_image::{Image, ImageSize};
use kornia_imgproc::features::OrbDetector;

/// How long one side is timed before the other side's turn.
const TURN: Duration = Duration::from_millis(300);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let mut images = Vec::new();
    for entry in std::fs::read_dir(&args[1])? {
        let gray = image::open(entry?.path())?.into_luma8();
        let size = ImageSize { width: gray.width() as usize, height: gray.height() as usize };
        images.push(Image::<u8, 1>::new(size, gray.into_raw())?);
    }
    let mut orb = OrbDetector::new();
    orb.n_keypoints = args[2].parse()?;
    let all = || images.iter().map(|image| orb.detect_and_extract_u8(image).map_or(0, |f| f.len()));
    let found: usize = all().sum();
    let (start, mut least) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < TURN {
        let once = Instant::now();
        black_box(all().sum::<usize>());
        least = least.min(once.elapsed().as_secs_f64());
    }
    println!("{:e} {found}", least / images.len() as f64);
    Ok(())
}
