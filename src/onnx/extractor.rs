//! The extractor that runs a network.

use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::params::{MAX_BATCH, MAX_SIDE, OnnxBackend, OnnxParams};
use super::prepare::{Buffers, Layout, Preparation};
#[cfg(feature = "onnxruntime")]
use super::runtime;
use super::{Declared, Why, tract};
use crate::error::{Error, Result};
use crate::features::{Extracted, FeatureExtractor, VectorFormat, Vectors};
use crate::pixels::{PixelSpec, PixelView};

/// Runs a network on each image; its output, flattened in the order in which the network has it, is the image's vector.
///
/// The network has one input: float32 images of shape (batch, height, width, channels) or (batch, channels, height,
/// width), told apart by where the channels are, with a fixed or a free batch. Images are resized and scaled as
/// [`OnnxParams`] say. The network runs on one thread; photos are processed in parallel, in order. A vector depends
/// on its image alone, not on the others of its batch.
///
/// # Examples
/// ```no_run
/// use orb_features::onnx::{OnnxExtractor, OnnxParams};
/// use orb_features::prelude::*;
///
/// let network = OnnxExtractor::open("mobilenet_v2.onnx", &OnnxParams::default())?;
/// let rows = FsSource::new("photos").open()?.features(&network).explode();
/// let (model, rows) = rows.fit_pca(&PcaParams::new(200), &Spool::default())?;
/// rows.project(&model).write_to(FileSink::create("vectors", FileParams::default())?)?;
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone)]
pub struct OnnxExtractor {
    network: Arc<Network>,
}

struct Network {
    plan: Plan,
    preparation: Preparation,
    batch: usize,
    len: usize,
    description: String,
}

enum Plan {
    Tract(tract::Plan),
    #[cfg(feature = "onnxruntime")]
    Runtime(runtime::Plan),
}

/// The working memory of one thread.
#[derive(Debug, Default)]
pub struct OnnxScratch {
    buffers: Buffers,
    input: Vec<f32>,
    /// This thread's session; `None` before its first run.
    #[cfg(feature = "onnxruntime")]
    session: Option<runtime::Session>,
}

impl fmt::Debug for OnnxExtractor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnnxExtractor").field(&self.network.description).finish()
    }
}

impl OnnxExtractor {
    /// Loads a network from an ONNX file.
    ///
    /// # Errors
    /// As [`OnnxExtractor::new`], and [`Error::Network`] if the file cannot be read.
    pub fn open(path: impl AsRef<Path>, params: &OnnxParams) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let network = std::fs::read(path).map_err(|e| Error::Network {
            uri: name.as_str().into(),
            reason: e.to_string().into(),
        })?;
        Self::new(&network, &name, params)
    }

    /// Loads a network from the bytes of an ONNX file; `name` is for errors.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for parameters out of range or that do not go with the network; [`Error::Network`] if
    /// the bytes are no network, its input is no image, its output no float vector, or an operator is unknown.
    pub fn new(network: &[u8], name: &str, params: &OnnxParams) -> Result<Self> {
        params.check()?;
        let failed = |reason: Why| Error::Network { uri: name.into(), reason };
        // The libraries may panic on a damaged file.
        let loaded = catch_unwind(AssertUnwindSafe(|| Network::load(network, params, &failed)));
        let network = loaded
            .unwrap_or_else(|_| Err(failed("it cannot be loaded: the loader panicked".into())))?;
        Ok(Self { network: Arc::new(network) })
    }
}

impl Network {
    fn load(network: &[u8], params: &OnnxParams, failed: &dyn Fn(Why) -> Error) -> Result<Self> {
        let (plan, declared, Fitted { preparation, batch, output }) = match params.backend() {
            OnnxBackend::Tract => {
                let (model, declared) = tract::declared(network).map_err(failed)?;
                let fitted = fit(&declared, params, failed)?;
                let shape = fitted.preparation.shape(fitted.batch);
                let plan = tract::plan(model, shape, fitted.output).map_err(failed)?;
                (Plan::Tract(plan), declared, fitted)
            }
            #[cfg(feature = "onnxruntime")]
            OnnxBackend::OnnxRuntime => {
                let (plan, declared) = runtime::Plan::open(network).map_err(failed)?;
                let fitted = fit(&declared, params, failed)?;
                (Plan::Runtime(plan.with_output(fitted.output)), declared, fitted)
            }
            #[cfg(not(feature = "onnxruntime"))]
            OnnxBackend::OnnxRuntime => {
                let allowed = "tract: this was built without the feature `onnxruntime`";
                return Err(Error::param("onnx_backend", OnnxBackend::OnnxRuntime, allowed));
            }
        };
        let output = &declared.outputs[output];
        let digest = Sha256::digest(network);
        let mut sha256 = String::new();
        for byte in digest {
            let _ = write!(sha256, "{byte:02x}");
        }
        let description = json!({
            "extractor": "onnx",
            "network": format!("sha256:{sha256}"),
            "output": output,
            "size": [preparation.width, preparation.height],
            "channels": preparation.channels,
            "resize": preparation.resize,
            "scale": preparation.scale,
            "backend": params.backend(),
        });
        let description = description.to_string();
        let mut network = Self { plan, preparation, batch, len: 0, description };
        // Runs once on zeros, to learn the shape of the output.
        let zeros = vec![0.0; batch * network.preparation.len()];
        let (shape, values) = network.run(&zeros, &mut OnnxScratch::default()).map_err(failed)?;
        network.len = values.len() / batch;
        if shape.len() < 2 || shape[0] != batch || network.len == 0 {
            let why = format!(
                "its output {output} has the shape {shape:?} for {batch} images: not a vector for each"
            );
            return Err(failed(why.into()));
        }
        VectorFormat::f32(network.len).check().map_err(|e| failed(e.to_string().into()))?;
        Ok(network)
    }

    /// Runs a whole batch.
    fn run(&self, input: &[f32], scratch: &mut OnnxScratch) -> Result<(Vec<usize>, Vec<f32>), Why> {
        let shape = self.preparation.shape(self.batch);
        match &self.plan {
            Plan::Tract(plan) => {
                let _ = scratch;
                tract::run(plan, shape, input)
            }
            #[cfg(feature = "onnxruntime")]
            Plan::Runtime(plan) => {
                let session = match &mut scratch.session {
                    Some(session) => session,
                    none => none.insert(plan.session()?),
                };
                plan.run(session, shape, input)
            }
        }
    }
}

/// Most elements of a batch that a network is given: 1 GiB of them.
const MAX_ELEMENTS: usize = 1 << 28;

/// The parameters and what the network declares, brought together.
struct Fitted {
    preparation: Preparation,
    /// Images that the network takes at a time.
    batch: usize,
    /// Index of the output.
    output: usize,
}

fn fit(declared: &Declared, params: &OnnxParams, failed: &dyn Fn(Why) -> Error) -> Result<Fitted> {
    let channels = params.channels().channels();
    let is = |dim: Option<usize>| dim == Some(channels);
    let (layout, [height, width], batch) = match declared.input[..] {
        [batch, height, width, depth] if is(depth) => (Layout::Nhwc, [height, width], batch),
        [batch, depth, height, width] if is(depth) => (Layout::Nchw, [height, width], batch),
        _ => {
            let sizes: Vec<_> = declared
                .input
                .iter()
                .map(|d| d.map_or("?".to_owned(), |d| d.to_string()))
                .collect();
            let why = format!(
                "its input has the shape ({}), not that of {} images: (batch, height, width, {channels}) or (batch, \
                 {channels}, height, width)",
                sizes.join(", "),
                params.channels()
            );
            return Err(failed(why.into()));
        }
    };
    let given = params.size().map(|(width, height)| [height as usize, width as usize]);
    let side = |declared: Option<usize>, given: Option<usize>| match (declared, given) {
        (Some(declared), Some(given)) if declared != given => {
            Err(Error::param("size", given, format!("{declared}, as the network says")))
        }
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => Err(Error::param("size", "none", "a size: the network takes any")),
    };
    let height = side(height, given.map(|[height, _]| height))?;
    let width = side(width, given.map(|[_, width]| width))?;
    let batch = match (batch, params.batch()) {
        (Some(declared), Some(given)) if declared != given => {
            return Err(Error::param("batch", given, format!("{declared}, as the network says")));
        }
        (Some(batch), _) | (None, Some(batch)) => batch,
        (None, None) => 1,
    };
    let most = MAX_SIDE as usize;
    let n = height.saturating_mul(width).saturating_mul(batch.saturating_mul(channels));
    if !(1..=most).contains(&height)
        || !(1..=most).contains(&width)
        || !(1..=MAX_BATCH).contains(&batch)
        || n > MAX_ELEMENTS
    {
        let why = format!(
            "its input is {batch} images of {width} x {height}: of 1 to {MAX_BATCH} images with 1 to {most} pixels a side, \
             and {MAX_ELEMENTS} elements in all, is due"
        );
        return Err(failed(why.into()));
    }
    let (channels, resize, scale) = (params.channels(), params.resize(), params.scale());
    let preparation = Preparation { layout, width, height, channels, resize, scale };
    Ok(Fitted { preparation, batch, output: output_of(declared, params)? })
}

/// The index of the output.
fn output_of(declared: &Declared, params: &OnnxParams) -> Result<usize> {
    let names = &declared.outputs;
    match params.output() {
        Some(output) => names
            .iter()
            .position(|name| name == output)
            .ok_or_else(|| Error::param("output", output, format!("one of {}", names.join(", ")))),
        None => Ok(names.len().saturating_sub(1)),
    }
}

impl FeatureExtractor for OnnxExtractor {
    type Scratch = OnnxScratch;

    fn describe(&self) -> String {
        self.network.description.clone()
    }

    fn pixels(&self) -> PixelSpec {
        PixelSpec::new(self.network.preparation.channels)
    }

    fn output(&self) -> VectorFormat {
        VectorFormat::f32(self.network.len)
    }

    fn extract(&self, image: PixelView<'_>, scratch: &mut OnnxScratch) -> Result<Extracted> {
        self.extract_batch(&[image], scratch).swap_remove(0)
    }

    fn batch_len(&self) -> usize {
        self.network.batch
    }

    fn extract_batch(
        &self,
        images: &[PixelView<'_>],
        scratch: &mut OnnxScratch,
    ) -> Vec<Result<Extracted>> {
        images.chunks(self.network.batch).flat_map(|images| self.batch(images, scratch)).collect()
    }
}

impl OnnxExtractor {
    /// Up to one batch.
    fn batch(&self, images: &[PixelView<'_>], scratch: &mut OnnxScratch) -> Vec<Result<Extracted>> {
        let Network { preparation, batch, len, .. } = &*self.network;
        let mut input = std::mem::take(&mut scratch.input);
        input.clear();
        for image in images {
            if image.as_bytes().is_empty() {
                // In place of an image without a pixel, whose error follows.
                input.resize(input.len() + preparation.len(), 0.0);
            } else {
                preparation.add(*image, &mut scratch.buffers, &mut input);
            }
        }
        // A shorter batch is filled up, so that a vector does not depend on the number of images.
        input.resize(batch * preparation.len(), 0.0);
        let values = self.network.run(&input, scratch);
        scratch.input = input;
        match values {
            Ok((_, values)) => {
                let vectors = values.chunks_exact(*len);
                images
                    .iter()
                    .zip(vectors)
                    .map(|(image, vector)| vector_of(*image, vector))
                    .collect()
            }
            Err(why) => images.iter().map(|_| Err(Error::Inference(why.clone()))).collect(),
        }
    }
}

fn vector_of(image: PixelView<'_>, vector: &[f32]) -> Result<Extracted> {
    if image.as_bytes().is_empty() {
        return Err(Error::shape("an image without a pixel"));
    }
    if let Some(at) = vector.iter().position(|v| !v.is_finite()) {
        let why = format!("element {at} of the output is {}", vector[at]);
        return Err(Error::Inference(why.into()));
    }
    Ok(Vectors::from_f32(vector.to_vec(), vector.len())?.into())
}
