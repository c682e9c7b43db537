//! The report as one HTML file.

use askama::Template;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

use super::content::{Extreme, Report, Thumb};
use super::plot::{self, thousands};
use crate::error::{Error, Result};
use crate::pipeline::Bytes;

/// Most bytes of a page.
pub const MAX_BYTES: usize = 5_000_000;

/// Sorts tables by a click on a column's head; without it they stay as they are.
const SCRIPT: &str = include_str!("sort.js");

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    script: &'static str,
    script_hash: String,
    histogram: String,
    scree: Option<String>,
    scatter: Option<(String, Vec<(String, usize)>)>,
    /// Name, unit and photos of each kind that stands out.
    extremes: [(&'static str, &'static str, &'a [Extreme]); 3],
    /// Most rows of lists.
    rows: usize,
    /// Most pictures of each kind.
    pictures: usize,
}

#[expect(
    clippy::unused_self,
    clippy::trivially_copy_pass_by_ref,
    clippy::ref_option,
    reason = "what a template calls: methods, with references"
)]
impl Page<'_> {
    fn share(&self, part: &u64, of: &u64) -> String {
        self.percent(&(*part as f64 / (*of).max(1) as f64))
    }

    fn label<'a>(&self, label: &'a Option<String>) -> &'a str {
        label.as_deref().unwrap_or("(none)")
    }

    fn mean(&self, sum: &u64, n: &u64) -> String {
        format!("{:.1}", *sum as f64 / (*n).max(1) as f64)
    }

    fn bytes(&self, n: &u64) -> String {
        Bytes(*n).to_string()
    }

    /// A bar's width, of 100, for a stage.
    fn width(&self, seconds: &f64) -> String {
        let most = self.report.run.stages.iter().map(|stage| stage.seconds).fold(1e-9, f64::max);
        format!("{:.1}", 100.0 * seconds / most)
    }

    /// A picture, or a box that says that there is none.
    fn picture(&self, thumb: &Thumb) -> String {
        if thumb.svg.is_empty() {
            "<div class=\"none\">cannot be read again</div>".to_owned()
        } else {
            thumb.svg.clone()
        }
    }

    fn percent(&self, share: &f64) -> String {
        format!("{:.1} %", 100.0 * share)
    }

    fn thousands(&self, n: &u64) -> String {
        thousands(*n)
    }

    fn count(&self, n: usize) -> String {
        thousands(n as u64)
    }
}

impl Report {
    /// The report as one HTML file that needs nothing else: at most [`MAX_BYTES`]. Lists and pictures that would make it longer
    /// are cut, and the page says so.
    ///
    /// # Errors
    /// [`Error::Shape`] if even the shortest page is longer.
    pub fn to_html(&self) -> Result<String> {
        let (mut rows, mut pictures) = (usize::MAX, usize::MAX);
        loop {
            let page = Page {
                report: self,
                script: SCRIPT,
                script_hash: BASE64_STANDARD.encode(Sha256::digest(SCRIPT)),
                histogram: plot::histogram(&self.keypoints.bins),
                scree: self.pca.as_ref().map(plot::scree),
                scatter: self.scatter.as_ref().map(plot::scatter),
                extremes: [
                    ("Darkest", "mean grey value, of 255", &self.extremes.darkest),
                    ("Brightest", "mean grey value, of 255", &self.extremes.brightest),
                    ("Blurriest", "variance of the Laplacian", &self.extremes.blurriest),
                ],
                rows,
                pictures,
            };
            let html = page.render().map_err(|e| Error::shape(format!("the page: {e}")))?;
            if html.len() <= MAX_BYTES {
                return Ok(html);
            }
            if rows <= 1 {
                return Err(Error::shape(format!("the page has {} bytes", html.len())));
            }
            (rows, pictures) = (rows.min(200) / 2, pictures.min(16) / 2);
        }
    }
}
