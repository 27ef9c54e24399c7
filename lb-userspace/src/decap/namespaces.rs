//! The network namespaces that `--netns` names: their numbers, as containers come and go.

use std::{collections::BTreeMap, io};

use lb_common::layout::{NAMESPACES, Namespaces as Numbers};

use crate::network::{NamespaceError, Namespaces as Kernel};

/// What is known of them.
#[derive(Default)]
pub(super) struct Namespaces {
    kernel: Option<Kernel>,
    /// The number that each name was found with last.
    known: BTreeMap<String, u32>,
    numbers: Numbers,
    /// Why one of them is missing, as it was said last.
    trouble: Option<String>,
}

impl Namespaces {
    /// Looks for the namespaces of these names. Gives the numbers for the program if they aren't
    /// those of before; one that isn't there is left out, and said once.
    pub(super) async fn look(&mut self, names: &[String]) -> Option<Numbers> {
        if names.is_empty() {
            return None;
        }
        let mut trouble = None;
        let mut found = Vec::new();
        for name in names {
            match self.number(name).await {
                Ok(number) => {
                    self.known.insert(name.clone(), number);
                }
                Err(Trouble { gone, text }) => {
                    // Connections of one that merely can't be asked now are still its own.
                    if gone {
                        self.known.remove(name);
                    }
                    trouble = Some(text);
                }
            }
            found.extend(self.known.get(name));
        }
        if trouble != self.trouble {
            match &trouble {
                Some(error) => tracing::warn!(
                    "{error}; connections that end there are taken for somebody else's until it is there"
                ),
                None => tracing::info!("every network namespace of --netns is there"),
            }
            self.trouble = trouble;
        }
        let numbers = numbers(&found);
        (numbers != self.numbers).then(|| {
            self.numbers = numbers;
            numbers
        })
    }

    async fn number(&mut self, name: &str) -> Result<u32, Trouble> {
        let kernel = match &mut self.kernel {
            Some(kernel) => kernel,
            none => none.insert(
                Kernel::open().map_err(|error| Trouble { gone: false, text: error.to_string() })?,
            ),
        };
        kernel.number(name).await.map_err(|error| Trouble {
            gone: matches!(&error, NamespaceError::Open { source, .. }
                if source.kind() == io::ErrorKind::NotFound),
            text: error.to_string(),
        })
    }
}

/// Why a name has no number.
struct Trouble {
    /// There is no such namespace any more.
    gone: bool,
    text: String,
}

/// In the program's form.
fn numbers(found: &[u32]) -> Numbers {
    let mut numbers = [0; NAMESPACES];
    for (place, number) in numbers.iter_mut().zip(found) {
        *place = number + 1;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_none() {
        assert_eq!(numbers(&[]), [0; NAMESPACES]);
        assert_eq!(numbers(&[0, 4]), [1, 5, 0, 0, 0, 0, 0, 0]);
    }
}
