//! The quota of each level, and the culling of its corners down to it.

use super::OrbParams;

/// The number of keypoints wanted at each level: a geometric series that sums to `n_features`.
///
/// # Source
/// `computeKeyPoints` in OpenCV's `orb.cpp`; float32 throughout, rounded to even.
pub(super) fn quotas(params: &OrbParams) -> Vec<usize> {
    let n = params.n_features() as f32;
    let levels = params.n_levels();
    let factor = (1.0 / f64::from(params.scale_factor())) as f32;
    let shrink = f64::from(factor).powf(f64::from(levels)) as f32;
    let mut want = n * (1.0 - factor) / (1.0 - shrink);
    let mut quotas = Vec::with_capacity(levels as usize);
    let mut sum = 0;
    for _ in 1..levels {
        let quota = want.round_ties_even() as i64;
        quotas.push(quota as usize);
        sum += quota;
        want *= factor;
    }
    quotas.push((i64::from(params.n_features()) - sum).max(0) as usize);
    quotas
}

/// Keeps the `n` best items and all that tie with the last of them, in their order.
///
/// The set equals that of `cv::KeyPointsFilter::retainBest`. Its order there depends on the implementation of
/// `nth_element`; here the raster order is kept.
pub(super) fn retain_best<T>(
    items: &mut Vec<T>,
    n: usize,
    response: impl Fn(&T) -> f32,
    values: &mut Vec<f32>,
) {
    if items.len() <= n {
        return;
    }
    if n == 0 {
        items.clear();
        return;
    }
    values.clear();
    values.extend(items.iter().map(&response));
    let (_, &mut bound, _) = values.select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a));
    items.retain(|item| response(item) >= bound);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As `cv::KeyPointsFilter::retainBest`: keeps all items not below the n-th best, in their order.
        #[test]
        fn the_best_and_their_ties_are_kept(
            responses in prop::collection::vec(0_u8..12, 0..60),
            n in 0_usize..70,
        ) {
            let items: Vec<(usize, u8)> = responses.iter().copied().enumerate().collect();
            let mut kept = items.clone();
            retain_best(&mut kept, n, |item| f32::from(item.1), &mut vec![1.0; 3]);
            let mut sorted = responses.clone();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            let bound = n.checked_sub(1).map(|last| sorted.get(last).copied().unwrap_or(0));
            let want = items.into_iter().filter(|item| bound.is_some_and(|b| item.1 >= b));
            prop_assert!(kept.into_iter().eq(want));
        }

        /// Quotas descend, except perhaps the last. Their sum is at least `n`; rounding adds at most 1 per level.
        #[test]
        fn quotas_share_out_the_features(n in 0_u32..100_000, levels in 1_u32..20, scale in 1.05_f32..3.0) {
            let params = OrbParams::default();
            let params = params.with_n_features(n).with_n_levels(levels).with_scale_factor(scale);
            let quotas = quotas(&params);
            prop_assert_eq!(quotas.len(), levels as usize);
            prop_assert!(quotas[..quotas.len() - 1].is_sorted_by(|a, b| a >= b));
            prop_assert!(quotas.iter().sum::<usize>() >= n as usize);
            prop_assert!(quotas.iter().sum::<usize>() <= (n + levels) as usize);
        }
    }

    #[test]
    fn quotas_are_opencvs() {
        let quotas = |n| quotas(&OrbParams::default().with_n_features(n));
        assert_eq!(quotas(30), [7, 5, 5, 4, 3, 3, 2, 1]);
        assert_eq!(quotas(500), [109, 90, 75, 63, 52, 44, 36, 31]);
        assert_eq!(quotas(0), [0; 8]);
        assert_eq!(super::quotas(&OrbParams::default().with_n_levels(1)), [30]);
    }

    #[test]
    fn ties_at_the_cut_are_all_kept_in_order() {
        let keep = |items: &[f32], n| {
            let mut items: Vec<(usize, f32)> = items.iter().copied().enumerate().collect();
            retain_best(&mut items, n, |item| item.1, &mut Vec::new());
            items.into_iter().map(|item| item.0).collect::<Vec<_>>()
        };
        assert_eq!(keep(&[1.0, 5.0, 3.0, 3.0, 9.0, 3.0], 3), [1, 2, 3, 4, 5]);
        assert_eq!(keep(&[1.0, 5.0, 3.0], 3), [0, 1, 2]);
        assert_eq!(keep(&[1.0, 5.0, 3.0], 0), [0_usize; 0]);
        assert_eq!(keep(&[-0.0, 0.0, -1.0], 1), [0, 1]);
    }
}
