//! The PCA against scikit-learn's and Spark's on the same descriptors, and its own rules.

use ndarray::{Array2, ArrayView2, Axis, array, s};
use orb_features::prelude::*;
use serde::Deserialize;
use testkit::images::{draw, hash};

/// Made by `tests/fixtures/make_pca.py`.
#[derive(Deserialize)]
struct Fixture {
    rows: usize,
    sum: u64,
    components: Vec<Vec<f64>>,
    mean: Vec<f64>,
    explained_variance: Vec<f64>,
    singular_values: Vec<f64>,
    explained_variance_ratio: Vec<f64>,
    transform: Vec<Vec<f64>>,
    spark_explained_variance: Vec<f64>,
    spark_transform: Vec<Vec<f64>>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/pca.json")).unwrap()
}

/// The descriptors of the fixture, from our own extractor.
fn descriptors() -> Array2<u8> {
    let orb = OrbParams::default().with_n_features(400).build().unwrap();
    let mut rows = Vec::new();
    for (kind, seed) in [("smooth", 1), ("blobs", 2), ("text", 3), ("steps", 4)] {
        let pixels = draw(kind, 320, 240, seed);
        let image = GrayView::new(&pixels, 320, 240).unwrap();
        rows.extend(orb.detect_and_compute(image, None).unwrap().descriptors);
    }
    Array2::from_shape_vec((rows.len(), 32), rows.concat()).unwrap()
}

fn fit(rows: ArrayView2<'_, u8>, params: &PcaParams) -> Result<PcaModel> {
    let mut moments = Moments::new(rows.ncols());
    moments.push_rows(rows)?;
    moments.fit(params)
}

fn worst<'a>(
    got: impl IntoIterator<Item = &'a f64>,
    want: impl IntoIterator<Item = &'a f64>,
) -> f64 {
    let (got, want): (Vec<_>, Vec<_>) = (got.into_iter().collect(), want.into_iter().collect());
    assert_eq!(got.len(), want.len());
    got.into_iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

const RANDOMIZED: PcaParamsFn = || PcaParams::new(20);
const COVARIANCE: PcaParamsFn = || PcaParams::new(20).with_solver(Solver::Covariance);
type PcaParamsFn = fn() -> PcaParams;

#[test]
fn components_and_variances_are_scikit_learns() {
    let (want, rows) = (fixture(), descriptors());
    assert_eq!(rows.nrows(), want.rows);
    assert_eq!(rows.iter().map(|&v| u64::from(v)).sum::<u64>(), want.sum);
    for (params, ratio) in [(COVARIANCE, 1e-9), (RANDOMIZED, 1e-6)] {
        let model = fit(rows.view(), &params()).unwrap();
        assert!(worst(model.components(), want.components.iter().flatten()) < 1e-6, "{model:?}");
        assert!(worst(model.explained_variance_ratio(), &want.explained_variance_ratio) < ratio);
        assert!(worst(model.mean(), &want.mean) < 1e-9);
        let relative = |got: &ndarray::Array1<f64>, want: &[f64]| {
            got.iter().zip(want).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max)
        };
        assert!(relative(model.explained_variance(), &want.explained_variance) < 1e-6);
        assert!(relative(model.singular_values(), &want.singular_values) < 1e-6);
        let scores = model.project(rows.slice(s![..3, ..])).unwrap();
        assert!(worst(&scores, want.transform.iter().flatten()) < 1e-3);
        assert_eq!(model.rank(), 20);
    }
}

#[test]
fn the_randomized_solver_settles_on_the_exact_components() {
    let rows = descriptors();
    let exact = fit(rows.view(), &COVARIANCE()).unwrap();
    for seed in 0..5 {
        // A few components are found by iteration on few vectors. Many take all dimensions at once, without
        // iteration.
        for k in [5, 20] {
            let params = PcaParams::new(k).with_solver(Solver::seeded(seed));
            let model = fit(rows.view(), &params).unwrap();
            let want = exact.components().slice(s![..k, ..]);
            assert!(worst(model.components(), want.iter()) < 1e-6);
            let want = exact.explained_variance_ratio().slice(s![..k]);
            assert!(worst(model.explained_variance_ratio(), want.iter()) < 1e-9);
            assert_eq!(model.iterations() > 0, k == 5);
            // The solver checks for convergence at every fourth iteration.
            assert_eq!(model.iterations() % 4, 0);
            assert!(model.iterations() < 1000, "{}", model.iterations());
        }
    }
    // The seed and a fixed number of iterations matter if the iteration stops early.
    let early = |seed, n| {
        let power_iterations = PowerIterations::Fixed(n);
        let solver = Solver::Randomized { oversamples: 2, power_iterations, seed };
        fit(rows.view(), &PcaParams::new(5).with_solver(solver)).unwrap()
    };
    assert_ne!(early(0, 1).components(), early(1, 1).components());
    assert_eq!(early(1, 1), early(1, 1));
    let off = |n| worst(early(0, n).components(), exact.components().slice(s![..5, ..]).iter());
    assert!(off(0) > off(8) && off(8) > off(64));
}

/// Spark's `PCAModel.transform` does not subtract the mean, and its signs are those of LAPACK.
#[test]
fn without_centering_the_projection_is_sparks() {
    let (want, rows) = (fixture(), descriptors());
    let model = fit(rows.view(), &COVARIANCE().with_centering(Centering::None)).unwrap();
    // Spark divides by the sum of all 32 variances, as we do.
    assert!(worst(model.explained_variance_ratio(), &want.spark_explained_variance) < 1e-9);
    let scores = model.project(rows.slice(s![..3, ..])).unwrap();
    for (got, want) in scores.rows().into_iter().zip(&want.spark_transform) {
        for (got, want) in got.iter().zip(want) {
            assert!((got.abs() - want.abs()).abs() < 1e-3, "{got} {want}");
        }
    }
}

/// The example of Spark's own documentation and tests.
#[test]
fn the_example_of_spark() {
    let rows = array![[0_u8, 1, 0, 7, 0], [2, 0, 3, 4, 5], [4, 0, 0, 6, 7]];
    let params = PcaParams::new(2).with_solver(Solver::Covariance).with_centering(Centering::None);
    let model = fit(rows.view(), &params).unwrap();
    let ratio = [0.794_393_253_223_053_1, 0.205_606_746_776_946_94];
    assert!(worst(model.explained_variance_ratio(), &ratio) < 1e-12);
    let scores = model.project(rows.view()).unwrap();
    let want: [[f64; 2]; 3] = [
        [1.648_572_823_088_380_7, -4.013_282_700_516_296],
        [-4.645_104_331_781_534, -1.116_797_266_361_902_6],
        [-6.428_880_535_676_489, -5.337_951_427_775_355],
    ];
    for (got, want) in scores.iter().zip(want.as_flattened()) {
        assert!((got.abs() - want.abs()).abs() < 1e-9, "{got} {want}");
    }
}

#[test]
fn every_component_has_its_largest_loading_positive_and_unit_length() {
    let rows = descriptors();
    for params in [RANDOMIZED, COVARIANCE] {
        for component in fit(rows.view(), &params()).unwrap().components().rows() {
            let largest = component.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
            assert!(largest.unwrap() > 0.0);
            assert!((component.dot(&component) - 1.0).abs() < 1e-12);
        }
    }
}

#[test]
fn a_model_does_not_depend_on_how_the_rows_are_split() {
    let rows = descriptors();
    let whole = fit(rows.view(), &RANDOMIZED()).unwrap();
    for size in [1, 100, 257] {
        let mut parts: Vec<Moments> = rows
            .axis_chunks_iter(Axis(0), size)
            .map(|chunk| {
                let mut moments = Moments::new(32);
                moments.push_rows(chunk).unwrap();
                moments
            })
            .collect();
        parts.reverse();
        let mut merged = Moments::new(32);
        for part in &parts {
            merged.merge(part).unwrap();
        }
        assert_eq!(merged.fit(&RANDOMIZED()).unwrap(), whole);
    }
}

#[test]
fn a_row_projects_to_the_same_bits_in_any_batch() {
    let rows = descriptors();
    let model = fit(rows.view(), &RANDOMIZED()).unwrap();
    let whole = model.project(rows.view()).unwrap();
    for (i, row) in rows.rows().into_iter().enumerate().step_by(7) {
        let alone = model.project(row.insert_axis(Axis(0))).unwrap();
        assert_eq!(alone.row(0), whole.row(i));
    }
    let floats = model.project(rows.mapv(f32::from).view()).unwrap();
    assert_eq!(floats, whole);
}

#[cfg(unix)]
#[test]
fn a_link_that_cannot_be_followed_is_not_replaced() {
    let root = tempfile::tempdir().unwrap();
    let link = root.path().join("model.json");
    std::os::unix::fs::symlink("model.json", &link).unwrap();
    let model = fit(descriptors().view(), &PcaParams::new(2)).unwrap();
    assert!(model.save(&link).unwrap_err().to_line().contains("model.json"));
    assert!(link.is_symlink());
}

#[test]
fn a_saved_model_is_the_same_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    for params in [RANDOMIZED(), COVARIANCE().with_centering(Centering::None)] {
        let model = fit(descriptors().view(), &params).unwrap();
        model.save(&path).unwrap();
        assert_eq!(PcaModel::load(&path).unwrap(), model);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no litter");
    // As many components as elements.
    let all = fit(descriptors().view(), &PcaParams::new(32)).unwrap();
    all.save(&path).unwrap();
    assert_eq!(PcaModel::load(&path).unwrap(), all);
    let sum = all.explained_variance().sum();
    assert!((all.total_variance() / sum - 1.0).abs() < 1e-9, "{sum}");
}

#[test]
#[cfg(unix)]
fn a_file_is_replaced_and_a_pipe_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let model = fit(descriptors().view(), &PcaParams::new(2)).unwrap();
    let [path, other, pipe] = ["model.json", "other", "pipe"].map(|name| folder.path().join(name));
    std::fs::write(&path, "before").unwrap();
    std::fs::hard_link(&path, &other).unwrap();
    model.save(&path).unwrap();
    assert_eq!(PcaModel::load(&path).unwrap(), model);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "before");

    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read_to_string(pipe).unwrap()
    });
    model.save(&pipe).unwrap();
    assert!(!std::fs::metadata(&pipe).unwrap().is_file());
    let read = reader.join().unwrap();
    assert_eq!(serde_json::from_str::<PcaModel>(&read).unwrap(), model);
}

#[test]
fn a_file_that_is_no_model_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let refused = |content: &str| {
        std::fs::write(&path, content).unwrap();
        let error = PcaModel::load(&path).unwrap_err().to_line();
        assert!(error.contains("model.json"), "{error}");
        error
    };
    refused("");
    refused("{}");
    refused("[1, 2]");
    fit(descriptors().view(), &PcaParams::new(2)).unwrap().save(&path).unwrap();
    let good = std::fs::read_to_string(&path).unwrap();
    assert!(refused(&good.replace("pca 1", "pca 9")).contains("pca 9"));
    let mut json: serde_json::Value = serde_json::from_str(&good).unwrap();
    json["mean"].as_array_mut().unwrap().pop();
    refused(&json.to_string());
    json["mean"] = serde_json::json!([]);
    refused(&json.to_string());
    let missing = PcaModel::load(folder.path().join("none.json")).unwrap_err();
    assert!(missing.to_line().contains("none.json"));
    let nowhere = folder.path().join("no/such/model.json");
    let model = fit(descriptors().view(), &PcaParams::new(2)).unwrap();
    assert!(model.save(nowhere).unwrap_err().to_line().contains("no/such/model.json"));
}

#[test]
fn too_few_rows_and_too_many_components_are_errors() {
    let rows = descriptors();
    let fit_some = |n: usize, k| fit(rows.slice(s![..n, ..]), &PcaParams::new(k));
    for (n, k) in [(0, 1), (1, 1), (19, 20)] {
        let error = fit_some(n, k).unwrap_err();
        assert!(matches!(error, Error::Fit(_)), "{error}");
        assert!(error.to_string().contains(&format!("{n} rows for {k} components")), "{error}");
    }
    for k in [0, 33] {
        let error = fit_some(100, k).unwrap_err();
        assert!(error.to_string().contains("n_components"), "{error}");
    }
    assert!(fit_some(100, 32).is_ok());
    let model = fit_some(100, 5).unwrap();
    assert!(model.project(array![[1.0, 2.0]].view()).is_err());
}

#[test]
fn a_deficient_rank_is_said() {
    // Three directions of variance in 32 columns, most of them constant.
    let rows = Array2::from_shape_fn((50, 32), |(i, j)| match j {
        0 => (i * 37 % 50) as u8,
        1 => (i * i % 41) as u8,
        2 => (i % 7) as u8,
        j => j as u8,
    });
    for params in [RANDOMIZED, COVARIANCE] {
        let model = fit(rows.view(), &params()).unwrap();
        assert_eq!((model.rank(), model.n_components()), (3, 20));
        assert!((model.explained_variance_ratio().sum() - 1.0).abs() < 1e-9);
        assert!(model.components().iter().all(|v| v.is_finite()));
        let flat = fit(Array2::from_elem((9, 32), 7).view(), &PcaParams::new(2)).unwrap();
        assert_eq!((flat.rank(), flat.explained_variance_ratio().sum()), (0, 0.0));
    }
    // With as many rows as components, the rank is one less.
    let few = fit(descriptors().slice(s![..20, ..]), &COVARIANCE()).unwrap();
    assert_eq!(few.rank(), 19);
}

#[test]
fn auto_is_scikit_learns_rule() {
    let auto = |n: usize, d: usize, k| {
        let rows = Array2::from_shape_fn((n, d), |(i, j)| (i * j * 31 % 255) as u8);
        fit(rows.view(), &PcaParams::new(k).with_solver(Solver::Auto { seed: 3 })).unwrap().solver()
    };
    assert_eq!(auto(400, 32, 20), Solver::Covariance);
    assert_eq!(auto(300, 32, 20), Solver::Covariance);
    assert_eq!(auto(520, 60, 5), Solver::seeded(3));
    assert_eq!(auto(520, 60, 50), Solver::Covariance);
}

#[test]
fn many_rows_are_projected_as_each_by_itself() {
    let rows =
        Array2::from_shape_fn((40_003, 32), |(i, j)| (hash(i as u32, j as u32, 9) % 97) as u8);
    let mut moments = Moments::new(32);
    moments.push_rows(rows.view()).unwrap();
    let model = moments.fit(&PcaParams::new(20)).unwrap();
    let scores = model.project(rows.view()).unwrap();
    let mut into = Array2::from_elem((40_003, 20), f64::NAN);
    model.project_into(rows.view(), into.view_mut()).unwrap();
    assert_eq!(scores, into);
    // The same rows in column-major order.
    let turned = rows.t().as_standard_layout().into_owned();
    assert_eq!(model.project(turned.t()).unwrap(), scores);
    for i in [0, 1, 16_383, 16_384, 40_002] {
        let one = model.project(rows.slice(s![i..=i, ..])).unwrap();
        assert_eq!(one.row(0), scores.row(i));
    }
    let mut short = Array2::from_elem((40_003, 20), f32::NAN);
    model.project_into(rows.view(), short.view_mut()).unwrap();
    for (short, long) in short.iter().zip(&scores) {
        assert!((f64::from(*short) - long).abs() < 1e-3, "{short} for {long}");
    }
    for i in [0, 16_384, 40_002] {
        let mut one = Array2::<f32>::zeros((1, 20));
        model.project_into(rows.slice(s![i..=i, ..]), one.view_mut()).unwrap();
        assert_eq!(one.row(0), short.row(i));
    }
    let mut wrong = Array2::<f64>::zeros((40_003, 19));
    assert!(model.project_into(rows.view(), wrong.view_mut()).is_err());
    let mut turned = Array2::<f64>::zeros((20, 40_003));
    assert!(model.project_into(rows.view(), turned.view_mut().reversed_axes()).is_err());
}

type Spoil = fn(&mut serde_json::Value);

#[test]
fn a_file_whose_numbers_no_fit_can_give_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let model = fit(descriptors().view(), &PcaParams::new(4)).unwrap();
    let good = serde_json::to_value(&model).unwrap();
    let load = |json: &serde_json::Value| {
        std::fs::write(&path, json.to_string()).unwrap();
        PcaModel::load(&path)
    };
    assert_eq!(load(&good).unwrap(), model);
    let spoilt: [(&str, Spoil); 25] = [
        ("rank", |m| m["rank"] = 3.into()),
        ("rank", |m| m["rank"] = 5.into()),
        ("explained_variance", |m| m["explained_variance"][3] = (-1.0).into()),
        ("explained_variance does not descend", |m| m["explained_variance"][3] = 1e9.into()),
        ("explained_variance_ratio", |m| m["explained_variance_ratio"][0] = 0.9.into()),
        ("explained_variance_ratio", |m| m["explained_variance_ratio"][3] = (-0.1).into()),
        ("explained_variance_ratio 3", |m| m["explained_variance_ratio"][3] = 0.0.into()),
        ("singular_values", |m| m["singular_values"][2] = 1e9.into()),
        ("singular_values 3", |m| m["singular_values"][3] = 1.0.into()),
        ("total_variance", |m| m["total_variance"] = 1.0.into()),
        ("rows", |m| m["n_rows"] = 3.into()),
        ("components 0 and 1", |m| m["components"][1][7] = 0.9.into()),
        ("orthonormal", |m| m["components"][1] = m["components"][0].clone()),
        ("number out of range", |m| m["mean"][0] = "1e999".into()),
        ("its mean is not that of bytes", |m| m["mean"][0] = 3e38.into()),
        ("its mean is not that of bytes", |m| m["mean"][31] = 255.1.into()),
        ("its mean is not that of bytes", |m| m["mean"][0] = (-0.1).into()),
        ("null", |m| m["components"][0][0] = serde_json::Value::Null),
        ("negative", |m| {
            for value in m["components"][2].as_array_mut().unwrap() {
                *value = (-value.as_f64().unwrap()).into();
            }
        }),
        ("unknown variant", |m| m["solver"] = "guess".into()),
        ("lengths", |m| m["singular_values"].as_array_mut().unwrap().truncate(1)),
        ("lengths", |m| {
            for name in ["explained_variance", "explained_variance_ratio", "singular_values"] {
                m[name] = [0.0; 0].as_slice().into();
            }
            m["components"] = serde_json::Value::Array(Vec::new());
        }),
        ("lengths", |m| m["mean"] = [1.0].as_slice().into()),
        ("total_variance", |m| {
            let variances = m["explained_variance"].as_array().unwrap();
            let sum: f64 = variances.iter().map(|v| v.as_f64().unwrap()).sum();
            m["total_variance"] = (sum * (1.0 - 2e-6)).into();
        }),
        ("ratio 0", |m| {
            let ratio = m["explained_variance_ratio"][0].as_f64().unwrap();
            m["explained_variance_ratio"][0] = (ratio + 1e-6).into();
        }),
    ];
    for (says, spoil) in spoilt {
        let mut json = good.clone();
        spoil(&mut json);
        std::fs::write(&path, json.to_string().replace("\"1e999\"", "1e999")).unwrap();
        let error = PcaModel::load(&path).unwrap_err();
        assert!(matches!(error, Error::Model { .. }), "{error}");
        let line = error.to_line();
        assert!(line.contains(says) && line.contains("model.json"), "{says}: {line}");
    }
    // A model of data without variance, or of a rank below the number of components, is valid.
    let flat = fit(Array2::from_elem((9, 32), 7).view(), &PcaParams::new(2)).unwrap();
    let mut json = serde_json::to_value(&flat).unwrap();
    assert_eq!(load(&json).unwrap(), flat);
    json["explained_variance_ratio"][0] = 0.5.into();
    assert!(load(&json).unwrap_err().to_line().contains("ratio 0"));
    let few = fit(descriptors().slice(s![..20, ..]), &RANDOMIZED()).unwrap();
    assert_eq!(load(&serde_json::to_value(&few).unwrap()).unwrap(), few);
}
