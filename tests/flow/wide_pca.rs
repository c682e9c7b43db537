//! PCA of long vectors of floats: against the definition, and the same bits however the rows come.

use std::sync::Arc;

use ndarray::{Array2, Axis};
use orb_features::features::{ImageFeatures, Vectors};
use orb_features::pca::{Components, PowerIterations, Solver};
use orb_features::pixels::ImageMeta;
use orb_features::prelude::*;

fn mix(a: u64, b: u64) -> f32 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 31).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ x >> 29) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// Six directions of decreasing variance, around a mean, and noise.
fn rows(n: usize, d: usize) -> Array2<f32> {
    Array2::from_shape_fn((n, d), |(row, i)| {
        let (row, i) = (row as u64, i as u64);
        let along: f32 = (0..6).map(|c| mix(row, c + 1000) * mix(c + 77, i) / (c + 1) as f32).sum();
        0.7 + along + 0.05 * mix(row + 5, i + 9)
    })
}

/// A fit by the stages, from batches of `batch` rows, in a file.
fn fit(rows: &Array2<f32>, batch: usize, params: &PcaParams) -> Result<PcaModel> {
    let d = rows.ncols();
    let images = rows.rows().into_iter().enumerate().map(|(i, row)| {
        let vectors = Vectors::from_f32(row.to_vec(), d)?;
        Ok(ImageFeatures::new(Arc::new(ImageMeta::new(format!("{i:05}"))), vectors))
    });
    let batches = images.explode().with_batch_rows(batch);
    let (model, back) = batches.fit_pca(params, &Spool::default().with_memory(1 << 16))?;
    // The rows come back, all of them.
    let mut n = 0;
    for batch in back {
        let batch = batch?;
        let first = rows.row(n).to_vec();
        assert_eq!(batch.vectors().as_f32().unwrap()[..d], first);
        n += batch.len();
    }
    assert_eq!(n, rows.nrows());
    Ok(model)
}

/// Holds components and variances against the definition: the largest residual, relative to the first variance.
fn check(model: &PcaModel, rows: &Array2<f32>, residual: f64) {
    let wide = rows.mapv(f64::from);
    let mean = wide.mean_axis(Axis(0)).unwrap();
    let centred = wide - &mean;
    let n = rows.nrows() as f64 - 1.0;
    let components = model.components();
    let overlap = components.dot(&components.t()) - Array2::<f64>::eye(model.n_components());
    assert!(overlap.iter().all(|v| v.abs() < 1e-9), "not orthonormal");
    let images = components.dot(&centred.t()).dot(&centred) / n;
    let variance = model.explained_variance();
    for (i, (image, component)) in images.rows().into_iter().zip(components.rows()).enumerate() {
        let off = &image - &(&component * variance[i]);
        let off = off.dot(&off).sqrt() / variance[0];
        assert!(off < residual, "component {i}: {off}");
        let largest =
            component.iter().fold(0.0, |l: f64, &v| if v.abs() > l.abs() { v } else { l });
        assert!(largest > 0.0);
    }
    assert!(variance.iter().is_sorted_by(|a, b| a >= b));
    let total = centred.iter().map(|v| v * v).sum::<f64>() / n;
    let off = model.total_variance() / total - 1.0;
    // The variances of passes are of products in float32: where they are all there is, their sum may be the larger.
    let most = if model.total_variance() == variance.sum() { 4e-9 } else { 1e-10 };
    assert!(off.abs() < most, "total variance: {off:e}");
    assert!(model.mean().iter().zip(&mean).all(|(a, b)| (a - b).abs() < 1e-12));
}

#[test]
fn long_vectors_of_few_rows_are_decomposed_exactly() {
    let rows = rows(60, 5000);
    let params = PcaParams::new(20);
    let model = fit(&rows, 7, &params).unwrap();
    check(&model, &rows, 1e-11);
    assert_eq!((model.rank(), model.iterations(), model.n_rows()), (20, 0, 60));
    for batch in [1, 59, 1000] {
        assert_eq!(fit(&rows, batch, &params).unwrap(), model, "batches of {batch}");
    }
    let covariance = fit(&rows, 60, &params.clone().with_solver(Solver::Covariance)).unwrap();
    assert_eq!(covariance.components(), model.components());
    // As many as rows: the last has no variance, and is orthogonal to the others all the same.
    let all = fit(&rows, 60, &PcaParams::new(60)).unwrap();
    check(&all, &rows, 1e-11);
    assert_eq!(all.rank(), 59);
    assert!((all.explained_variance_ratio().iter().sum::<f64>() - 1.0).abs() < 1e-10);
    assert!(fit(&rows, 60, &PcaParams::new(61)).unwrap_err().to_line().contains("60 rows for 61"));
    let mut bad = rows.clone();
    bad[(3, 4999)] = f32::NAN;
    let line = fit(&bad, 60, &params).unwrap_err().to_line();
    assert!(line.contains("element 4999 of vector 0 is not finite"), "{line}");
    let same = Array2::from_elem((5, 5000), 0.3_f32);
    let none = fit(&same, 2, &PcaParams::new(3)).unwrap();
    assert_eq!((none.rank(), none.total_variance()), (0, 0.0));
    check_file(&none);
    check_file(&all);
}

/// A model goes through its file unchanged.
fn check_file(model: &PcaModel) {
    let json = serde_json::to_string(model).unwrap();
    assert_eq!(serde_json::from_str::<PcaModel>(&json).unwrap(), *model);
}

#[test]
fn passes_over_many_rows_find_the_same_components() {
    let rows = rows(2100, 4100);
    let params = PcaParams::new(8);
    let model = fit(&rows, 300, &params).unwrap();
    // Six directions, and two of noise, which are not worth the passes until they have converged.
    check(&model, &rows, 1e-4);
    check(&fit(&rows, 300, &PcaParams::new(6)).unwrap(), &rows, 2e-7);
    assert!((1..=6).contains(&model.iterations()), "{}", model.iterations());
    assert_eq!(fit(&rows, 1000, &params).unwrap(), model);
    let fixed = |n| Solver::Randomized {
        oversamples: 10,
        power_iterations: PowerIterations::Fixed(n),
        seed: 3,
    };
    let few = fit(&rows, 300, &PcaParams::new(6).with_solver(fixed(2))).unwrap();
    assert_eq!(few.iterations(), 2);
    check(&few, &rows, 1e-3);
    let covariance = PcaParams::new(8).with_solver(Solver::Covariance);
    let line = fit(&rows, 300, &covariance).unwrap_err().to_line();
    assert!(line.contains("2100 rows of 4100"), "{line}");
}

/// The basis of the passes soon holds all directions, and what is left of the vectors is noise.
#[test]
fn passes_over_rows_of_few_directions_end_well() {
    let few = Array2::from_shape_fn((2100, 4100), |(row, i)| {
        let (row, i) = (row as u64, i as u64);
        (0..3).map(|c| mix(row, c + 1000) * mix(c + 77, i)).sum::<f32>()
    });
    let model = fit(&few, 500, &PcaParams::new(3)).unwrap();
    check(&model, &few, 1e-7);
    let more = fit(&few, 500, &PcaParams::new(8)).unwrap();
    check(&more, &few, 1e-7);
    assert!(more.explained_variance_ratio().iter().skip(3).all(|&v| v < 1e-10));
    assert_eq!(more.rank(), 3);
    let same = fit(&Array2::from_elem((2100, 4100), 0.3_f32), 500, &PcaParams::new(4)).unwrap();
    assert_eq!((same.rank(), same.total_variance()), (0, 0.0));
    check_file(&same);
}

#[test]
fn as_many_components_as_explain_a_share() {
    for (n, d) in [(60, 5000), (400, 300), (90, 20)] {
        let rows = rows(n, d);
        let all = fit(&rows, 50, &PcaParams::new(n.min(d))).unwrap();
        for share in [0.1, 0.5, 0.9, 0.95] {
            let model = fit(&rows, 50, &PcaParams::of_share(share)).unwrap();
            check(&model, &rows, 1e-10);
            let k = model.n_components();
            let sum = |k: usize| all.explained_variance_ratio().iter().take(k).sum::<f64>();
            assert!(sum(k) >= share && sum(k - 1) < share, "{n} x {d} {share}: {k}");
            assert_eq!((all.reaching(share), model.reaching(share)), (Some(k), Some(k)));
            assert_eq!(model.reaching(1.0), None);
        }
    }
    let same = Array2::from_elem((5, 300), 0.3_f32);
    assert_eq!(fit(&same, 2, &PcaParams::of_share(0.9)).unwrap().n_components(), 1);
    for share in [0.0, 1.0, -0.5, f64::NAN] {
        PcaParams::of_share(share).check(10).unwrap_err();
    }
    let params = PcaParams::of_share(0.95);
    let json = serde_json::to_string(&params).unwrap();
    assert!(json.contains("\"n_components\":0.95"), "{json}");
    assert_eq!(serde_json::from_str::<PcaParams>(&json).unwrap(), params);
    assert_eq!(
        serde_json::from_str::<PcaParams>("{\"n_components\":7}").unwrap(),
        PcaParams::new(7)
    );
    for text in ["", "0", "1.5", "1.0", "x", "-3", "nan"] {
        let parsed = text.parse::<Components>();
        assert!(parsed.is_err() || PcaParams::of(parsed.unwrap()).check(9).is_err(), "{text}");
    }
}

#[test]
fn vectors_of_middle_length_are_fitted_to_their_moments() {
    let rows = rows(700, 300);
    let params = PcaParams::new(20);
    let model = fit(&rows, 100, &params).unwrap();
    check(&model, &rows, 1e-11);
    for batch in [1, 7, 256, 700] {
        assert_eq!(fit(&rows, batch, &params).unwrap(), model, "batches of {batch}");
    }
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(alone.install(|| fit(&rows, 100, &params)).unwrap(), model);
}
