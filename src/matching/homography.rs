//! The plane projective map between two images.

use nalgebra::{Matrix3, SMatrix, SVector, Vector3};
use serde::{Deserialize, Serialize};

use super::ransac::{self, FoundHomography, RansacParams};
use crate::error::Result;
use crate::features::KeyPoint;

/// A place in an image: column and row in pixels.
pub type Point = (f64, f64);

impl From<KeyPoint> for Point {
    fn from(keypoint: KeyPoint) -> Self {
        (keypoint.x.into(), keypoint.y.into())
    }
}

/// Maps places of one image to those of another, as a camera sees a plane from two sides.
///
/// The matrix is by rows, its last element 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Homography {
    matrix: [[f64; 3]; 3],
}

/// A [`Homography`] as it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    matrix: [[f64; 3]; 3],
}

impl TryFrom<Unchecked> for Homography {
    type Error = &'static str;

    fn try_from(read: Unchecked) -> std::result::Result<Self, Self::Error> {
        Self::from_rows(read.matrix).ok_or("the matrix is no homography")
    }
}

impl Homography {
    /// Finds the homography that most pairs of places agree with, by RANSAC with local optimisation; then it is refined
    /// on those pairs. `None` if there is none.
    ///
    /// The result depends on the seed, not on threads.
    ///
    /// # Errors
    /// [`Error::InvalidParam`](crate::Error::InvalidParam) for parameters that are out of range.
    ///
    /// # Source
    /// Chum, Matas and Kittler, Locally Optimized RANSAC, DAGM 2003; costs as in Torr and Zisserman, MLESAC, CVIU 2000.
    pub fn find(
        pairs: &[(Point, Point)],
        params: &RansacParams,
    ) -> Result<Option<FoundHomography>> {
        params.check()?;
        Ok(ransac::find(pairs, params))
    }

    /// Takes a matrix by rows; `None` if it is no map: not finite, singular, or without a scale.
    #[must_use]
    pub fn from_rows(matrix: [[f64; 3]; 3]) -> Option<Self> {
        Self::of(Matrix3::from_fn(|i, j| matrix[i][j]))
    }

    fn of(matrix: Matrix3<f64>) -> Option<Self> {
        let matrix = matrix / matrix[(2, 2)];
        let is_map = matrix.iter().all(|v| v.is_finite()) && matrix.determinant().abs() > 1e-12;
        is_map.then(|| Self {
            matrix: std::array::from_fn(|i| std::array::from_fn(|j| matrix[(i, j)])),
        })
    }

    fn as_matrix(&self) -> Matrix3<f64> {
        Matrix3::from_fn(|i, j| self.matrix[i][j])
    }

    /// The matrix, by rows.
    #[must_use]
    pub fn rows(&self) -> [[f64; 3]; 3] {
        self.matrix
    }

    /// Maps a place; `None` for one that has no image in front of the camera.
    #[must_use]
    pub fn apply(&self, (x, y): Point) -> Option<Point> {
        let [u, v, w] = self.matrix.map(|[a, b, c]| a * x + b * y + c);
        (w > 1e-9).then(|| (u / w, v / w))
    }

    /// The map back; `None` if it has no scale.
    #[must_use]
    pub fn inverse(&self) -> Option<Self> {
        self.as_matrix().try_inverse().and_then(Self::of)
    }

    /// The mean distance, in pixels, between the corners of an image as this and another homography map them; infinite
    /// if one has no image of a corner.
    #[must_use]
    pub fn corner_error(&self, other: &Self, width: usize, height: usize) -> f64 {
        let (right, bottom) = (width.saturating_sub(1) as f64, height.saturating_sub(1) as f64);
        let corners = [(0.0, 0.0), (right, 0.0), (right, bottom), (0.0, bottom)];
        let errors = corners.map(|corner| match (self.apply(corner), other.apply(corner)) {
            (Some(one), Some(other)) => squared_distance(one, other).sqrt(),
            _ => f64::INFINITY,
        });
        errors.iter().sum::<f64>() / 4.0
    }

    /// The squared error of a pair, in pixels of the second image.
    pub(super) fn error(&self, (from, to): (Point, Point)) -> f64 {
        self.apply(from).map_or(f64::INFINITY, |image| squared_distance(image, to))
    }

    /// The map through four pairs.
    pub(super) fn through(pairs: &[(Point, Point); 4]) -> Option<Self> {
        let (of_first, of_second) =
            (Frame::of(pairs.iter().map(|p| p.0))?, Frame::of(pairs.iter().map(|p| p.1))?);
        let mut system = SMatrix::<f64, 8, 8>::zeros();
        let mut right = SVector::<f64, 8>::zeros();
        for (i, &(from, to)) in pairs.iter().enumerate() {
            let equations = equations(of_first.apply(from), of_second.apply(to));
            for (j, equation) in equations.iter().enumerate() {
                for (k, value) in equation[..8].iter().enumerate() {
                    system[(2 * i + j, k)] = *value;
                }
                right[2 * i + j] = -equation[8];
            }
        }
        let solution = system.lu().solve(&right)?;
        let matrix = Matrix3::from_fn(|i, j| if i + j == 4 { 1.0 } else { solution[3 * i + j] });
        of_second.undo(&matrix, &of_first)
    }

    /// The map with the least algebraic error, from four pairs on (the normalised direct linear transform).
    pub(super) fn fit(pairs: &[(Point, Point)]) -> Option<Self> {
        if pairs.len() < 4 {
            return None;
        }
        let (of_first, of_second) =
            (Frame::of(pairs.iter().map(|p| p.0))?, Frame::of(pairs.iter().map(|p| p.1))?);
        let mut normal = SMatrix::<f64, 9, 9>::zeros();
        for &(from, to) in pairs {
            for equation in equations(of_first.apply(from), of_second.apply(to)) {
                let equation = SVector::from(equation);
                normal += equation * equation.transpose();
            }
        }
        let eigen = normal.symmetric_eigen();
        let least = eigen.eigenvalues.imin();
        let solution = eigen.eigenvectors.column(least);
        of_second.undo(&Matrix3::from_fn(|i, j| solution[3 * i + j]), &of_first)
    }

    /// The map with the least error in pixels near this one, by Levenberg and Marquardt's method.
    pub(super) fn refined(&self, pairs: &[(Point, Point)]) -> Option<Self> {
        let (of_first, of_second) =
            (Frame::of(pairs.iter().map(|p| p.0))?, Frame::of(pairs.iter().map(|p| p.1))?);
        let pairs: Vec<_> =
            pairs.iter().map(|&(from, to)| (of_first.apply(from), of_second.apply(to))).collect();
        let cost = |map: &Self| pairs.iter().map(|&pair| map.error(pair)).sum::<f64>();
        let mut best =
            Self::of(of_second.matrix() * self.as_matrix() * of_first.matrix().try_inverse()?)?;
        let (mut least, mut damping) = (cost(&best), 1e-3);
        for _ in 0..20 {
            let (mut normal, mut gradient) =
                (SMatrix::<f64, 8, 8>::zeros(), SVector::<f64, 8>::zeros());
            for &((x, y), (u, v)) in &pairs {
                let (px, py) = best.apply((x, y))?;
                let w = best.matrix[2][0] * x + best.matrix[2][1] * y + 1.0;
                for (slope, residual) in [
                    ([x, y, 1.0, 0.0, 0.0, 0.0, -px * x, -px * y], px - u),
                    ([0.0, 0.0, 0.0, x, y, 1.0, -py * x, -py * y], py - v),
                ] {
                    let slope = SVector::from(slope) / w;
                    normal += slope * slope.transpose();
                    gradient += slope * residual;
                }
            }
            for i in 0..8 {
                normal[(i, i)] *= 1.0 + damping;
            }
            let Some(step) = normal.lu().solve(&gradient) else { break };
            let moved = best.as_matrix();
            let moved =
                Matrix3::from_fn(
                    |i, j| if i + j == 4 { 1.0 } else { moved[(i, j)] - step[3 * i + j] },
                );
            let Some(moved) = Self::of(moved) else { break };
            let (before, now) = (least, cost(&moved));
            if now < before {
                (best, least, damping) = (moved, now, damping / 10.0);
                if before - now < 1e-12 * before {
                    break;
                }
            } else {
                damping *= 10.0;
            }
        }
        of_second.undo(&best.as_matrix(), &of_first)
    }
}

fn squared_distance(one: Point, other: Point) -> f64 {
    (one.0 - other.0).powi(2) + (one.1 - other.1).powi(2)
}

/// The two equations that a pair sets for the nine elements.
fn equations((x, y): Point, (u, v): Point) -> [[f64; 9]; 2] {
    [[x, y, 1.0, 0.0, 0.0, 0.0, -u * x, -u * y, -u], [0.0, 0.0, 0.0, x, y, 1.0, -v * x, -v * y, -v]]
}

/// Coordinates around the mean of some places, with a mean distance of √2 from it.
struct Frame {
    scale: f64,
    centre: Point,
}

impl Frame {
    fn of(places: impl Iterator<Item = Point> + Clone) -> Option<Self> {
        let n = places.clone().count() as f64;
        let sum = places.clone().fold((0.0, 0.0), |sum, place| (sum.0 + place.0, sum.1 + place.1));
        let centre = (sum.0 / n, sum.1 / n);
        let spread = places.map(|place| squared_distance(place, centre).sqrt()).sum::<f64>() / n;
        let scale = std::f64::consts::SQRT_2 / spread;
        (scale.is_finite() && scale > 0.0).then_some(Self { scale, centre })
    }

    fn apply(&self, (x, y): Point) -> Point {
        (self.scale * (x - self.centre.0), self.scale * (y - self.centre.1))
    }

    fn matrix(&self) -> Matrix3<f64> {
        let move_by = Vector3::new(-self.centre.0, -self.centre.1, 1.0);
        let mut matrix = Matrix3::from_diagonal(&Vector3::new(self.scale, self.scale, 1.0));
        matrix[(0, 2)] = self.scale * move_by.x;
        matrix[(1, 2)] = self.scale * move_by.y;
        matrix
    }

    /// A map between frames as one between pixels.
    fn undo(&self, map: &Matrix3<f64>, of_first: &Self) -> Option<Homography> {
        Homography::of(self.matrix().try_inverse()? * map * of_first.matrix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between 0 and 1.
    pub(super) fn noise(seed: u64) -> impl FnMut() -> f64 {
        let mut random = fastrand::Rng::with_seed(seed);
        move || random.f64()
    }

    fn tilted() -> Homography {
        Homography::from_rows([[0.9, 0.12, 20.0], [-0.08, 1.1, 15.0], [1e-4, -2e-4, 1.0]]).unwrap()
    }

    fn pairs(n: usize, noise: &mut impl FnMut() -> f64, sigma: f64) -> Vec<(Point, Point)> {
        let mut pair = || {
            let from = (640.0 * noise(), 480.0 * noise());
            let (x, y) = tilted().apply(from).unwrap();
            (from, (x + sigma * (noise() - 0.5), y + sigma * (noise() - 0.5)))
        };
        (0..n).map(|_| pair()).collect()
    }

    #[test]
    fn four_pairs_and_many_give_back_the_map() {
        let four: [_; 4] = pairs(4, &mut noise(1), 0.0).try_into().unwrap();
        let many = pairs(50, &mut noise(2), 0.0);
        for found in [Homography::through(&four), Homography::fit(&four), Homography::fit(&many)] {
            let error = found.unwrap().corner_error(&tilted(), 640, 480);
            assert!(error < 1e-6, "{error}");
        }
        let back = tilted().inverse().unwrap();
        let (x, y) = back.apply(tilted().apply((3.0, 4.0)).unwrap()).unwrap();
        assert!((x - 3.0).abs() + (y - 4.0).abs() < 1e-9);
    }

    #[test]
    fn a_refined_map_has_the_least_error_in_pixels() {
        let pairs = pairs(200, &mut noise(3), 4.0);
        let cost = |map: &Homography| pairs.iter().map(|&pair| map.error(pair)).sum::<f64>();
        let fitted = Homography::fit(&pairs).unwrap();
        let refined = fitted.refined(&pairs).unwrap();
        assert!(cost(&refined) <= cost(&fitted) && cost(&refined) <= cost(&tilted()));
        for element in 0..8 {
            for step in [-1e-6, 1e-6] {
                let mut rows = refined.rows();
                rows[element / 3][element % 3] += step;
                assert!(cost(&Homography::from_rows(rows).unwrap()) > cost(&refined), "{element}");
            }
        }
    }

    #[test]
    fn outliers_are_found_and_the_seed_decides() {
        let mut noise = noise(4);
        let mut pairs = pairs(80, &mut noise, 1.0);
        pairs.extend(
            (0..160)
                .map(|_| ((640.0 * noise(), 480.0 * noise()), (640.0 * noise(), 480.0 * noise()))),
        );
        let params = RansacParams::default();
        let found = Homography::find(&pairs, &params).unwrap().unwrap();
        let error = found.homography.corner_error(&tilted(), 640, 480);
        assert!(error < 1.0 && found.rms_error < 1.5, "{error} {}", found.rms_error);
        assert!(found.inliers[..80].iter().all(|&inlier| inlier) && found.n_inliers < 90);
        assert_eq!(found.n_inliers, found.inliers.iter().filter(|&&inlier| inlier).count());
        assert_eq!(Homography::find(&pairs, &params).unwrap(), Some(found));
    }

    #[test]
    fn a_map_that_does_not_exist_is_none() {
        let params = RansacParams::default();
        let find = |pairs: &[_], params: &RansacParams| Homography::find(pairs, params).unwrap();
        let line: Vec<_> = (0..50).map(f64::from).map(|i| ((i, i), (2.0 * i, i))).collect();
        let same = vec![((5.0, 5.0), (6.0, 6.0)); 50];
        let nan = vec![((f64::NAN, 1.0), (2.0, 3.0)); 50];
        for pairs in [&line[..], &same, &nan, &line[..3], &[]] {
            assert_eq!(find(pairs, &params), None);
        }
        let mut noise = noise(5);
        let random: Vec<_> = (0..100)
            .map(|_| ((640.0 * noise(), 480.0 * noise()), (640.0 * noise(), 480.0 * noise())))
            .collect();
        assert_eq!(find(&random, &params.with_min_inliers(15)), None);
        assert_eq!(Homography::from_rows([[1.0; 3]; 3]), None);
        for bad in [
            params.with_threshold(f64::NAN),
            params.with_confidence(1.0),
            params.with_min_inliers(3),
            params.with_max_iterations(0),
        ] {
            Homography::find(&random, &bad).unwrap_err();
        }
    }
}
