//! x
mod arch;
pub mod decode;
mod error;
pub mod orb;
pub use error::{Error, Result};
pub mod prelude { //! p
pub use crate::decode::*; pub use crate::orb::*; pub use crate::error::*; }
