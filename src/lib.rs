//! x
mod arch;
pub mod decode;
mod error;
pub mod orb;
pub mod pca;
pub mod pipeline;
pub mod rows;
pub mod sink;
pub mod source;
pub mod stage;
pub use error::{Error, Result};
pub use stage::StageExt;
pub mod prelude { //! p
pub use crate::decode::*; pub use crate::orb::*; pub use crate::error::*; pub use crate::source::*; pub use crate::stage::*; pub use crate::rows::*;pub use crate::pca::*;pub use crate::sink::*; pub use crate::pipeline::*; }
