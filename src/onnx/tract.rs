//! Networks run by tract.

use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::{DimFact, Factoid as _};
use tract_onnx::tract_hir::internal::DimLike as _;

use super::{Declared, Why};

/// A network whose shapes are known, ready to run on any thread.
pub(super) type Plan = Arc<TypedRunnableModel>;

pub(super) fn declared(network: &[u8]) -> Result<(InferenceModel, Declared), Why> {
    let model = tract_onnx::onnx().model_for_read(&mut &network[..]).map_err(why)?;
    if model.inputs.len() != 1 {
        return Err(format!("it has {} inputs, not one image", model.inputs.len()).into());
    }
    let fact = model.input_fact(0).map_err(why)?;
    if fact.datum_type.concretize().is_some_and(|kind| kind != f32::datum_type()) {
        return Err(format!("its input is {:?}, not float32", fact.datum_type).into());
    }
    let size = |dim: &DimFact| {
        let size = dim.concretize().and_then(|size| size.to_usize().ok());
        size.filter(|&size| size > 0)
    };
    let mut input: Vec<_> = fact.shape.dims().map(size).collect();
    if fact.shape.is_open() {
        input.clear();
    }
    let name = |outlet: &OutletId| {
        let label = model.outlet_label(*outlet).map(str::to_owned);
        label.unwrap_or_else(|| model.node(outlet.node).name.clone())
    };
    let outputs = model.output_outlets().map_err(why)?.iter().map(name).collect();
    let declared = Declared { input, outputs };
    Ok((model, declared))
}

pub(super) fn plan(
    mut model: InferenceModel,
    shape: [usize; 4],
    output: usize,
) -> Result<Plan, Why> {
    let outlet = model.output_outlets().map_err(why)?[output];
    model.select_output_outlets(&[outlet]).map_err(why)?;
    model.set_input_fact(0, InferenceFact::dt_shape(f32::datum_type(), shape)).map_err(why)?;
    model.into_optimized().and_then(IntoRunnable::into_runnable).map_err(why)
}

/// Runs the network; returns the shape of the output and its elements.
pub(super) fn run(
    plan: &Plan,
    shape: [usize; 4],
    input: &[f32],
) -> Result<(Vec<usize>, Vec<f32>), Why> {
    let input = Tensor::from_shape(&shape, input).map_err(why)?;
    let outputs = plan.run(tvec!(input.into())).map_err(why)?;
    let output = outputs.first().ok_or("it gave no output")?;
    let values = output.to_plain_array_view::<f32>().map_err(why)?;
    Ok((output.shape().to_vec(), values.iter().copied().collect()))
}

/// The chain of causes on one line.
fn why(error: TractError) -> Why {
    format!("{error:#}").into()
}
