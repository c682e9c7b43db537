//! Names for parameters of a few values.

/// Gives an enum without fields `ALL`, `as_str`, `Display` and `FromStr`, by the names of its values. The parameter's
/// name is for errors.
macro_rules! choice {
    ($type:ident, $parameter:literal, $($variant:ident = $name:literal),+ $(,)?) => {
        impl $type {
            /// All values.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The name, as files and the command line have it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = crate::error::Error;

            fn from_str(name: &str) -> crate::error::Result<Self> {
                Self::ALL.into_iter().find(|value| value.as_str() == name).ok_or_else(|| {
                    let names = Self::ALL.map(Self::as_str).join(", ");
                    crate::error::Error::param($parameter, name, format!("one of {names}"))
                })
            }
        }
    };
}

pub(crate) use choice;
