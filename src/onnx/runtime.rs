//! Networks run by Microsoft's ONNX Runtime, from its shared library.

use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::session::Session as OrtSession;
use ort::value::{TensorElementType, TensorRef, ValueType};

use super::{Declared, Why};

/// The variable that names the library.
const LIBRARY: &str = "ORT_DYLIB_PATH";

/// A network from which each thread makes its own session: a session runs one batch at a time.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    environment: Environment,
    network: Arc<[u8]>,
    output: usize,
}

pub(super) type Session = OrtSession;

impl Plan {
    pub fn open(network: &[u8]) -> Result<(Self, Declared), Why> {
        let environment = environment()?;
        let plan = Self { environment, network: network.into(), output: 0 };
        let session = plan.session()?;
        let [input] = session.inputs() else {
            return Err(format!("it has {} inputs, not one image", session.inputs().len()).into());
        };
        let ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } = input.dtype() else {
            return Err(format!("its input is {}, not float32", input.dtype()).into());
        };
        let input = shape.iter().map(|&size| usize::try_from(size).ok().filter(|&n| n > 0));
        let outputs = session.outputs().iter().map(|output| output.name().to_owned());
        let declared = Declared { input: input.collect(), outputs: outputs.collect() };
        Ok((plan, declared))
    }

    pub fn with_output(mut self, output: usize) -> Self {
        self.output = output;
        self
    }

    /// Loads the network, for one thread.
    pub fn session(&self) -> Result<Session, Why> {
        let builder = OrtSession::builder(&self.environment).map_err(why)?;
        let builder = builder.with_intra_threads(1).map_err(why)?;
        let mut builder = builder.with_inter_threads(1).map_err(why)?;
        builder.commit_from_memory(&self.network).map_err(why)
    }

    /// Runs the network; returns the shape of the output and its elements.
    pub fn run(
        &self,
        session: &mut Session,
        shape: [usize; 4],
        input: &[f32],
    ) -> Result<(Vec<usize>, Vec<f32>), Why> {
        let input = TensorRef::from_array_view((shape.map(|n| n as i64), input)).map_err(why)?;
        let outputs = session.run(ort::inputs![input]).map_err(why)?;
        let (shape, values) = outputs[self.output].try_extract_tensor::<f32>().map_err(why)?;
        Ok((shape.iter().map(|&n| n as usize).collect(), values.to_vec()))
    }
}

/// Loads the library, once in a process.
fn environment() -> Result<Environment, Why> {
    static LOADED: Mutex<Option<Environment>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*loaded {
        return Ok(environment.clone());
    }
    let library = std::env::var_os(LIBRARY).filter(|path| !path.is_empty()).ok_or_else(|| {
        format!("{LIBRARY} must name ONNX Runtime's library, such as libonnxruntime.so of the Python package")
    })?;
    let loader =
        ort::init_from(&library).map_err(|e| format!("{LIBRARY} is {}: {e}", library.display()))?;
    let environment = loader.build().map_err(|e| e.to_string())?;
    Ok(loaded.insert(environment).clone())
}

fn why(error: impl std::fmt::Display) -> Why {
    error.to_string().into()
}
