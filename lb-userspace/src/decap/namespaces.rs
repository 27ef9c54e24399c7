//! The network namespaces that `--netns` names: their numbers, as containers come and go.

use lb_common::layout::{NAMESPACES, Namespaces as Numbers};

use crate::network::{NamespaceError, Namespaces as Kernel};

/// What is known of them.
#[derive(Default)]
pub(super) struct Namespaces {
    kernel: Option<Kernel>,
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
                Ok(number) => found.push(number),
                Err(error) => trouble = Some(error),
            }
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

    async fn number(&mut self, name: &str) -> Result<u32, String> {
        let kernel = match &mut self.kernel {
            Some(kernel) => kernel,
            none => none.insert(Kernel::open().map_err(|error| error.to_string())?),
        };
        kernel.number(name).await.map_err(|error: NamespaceError| error.to_string())
    }
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
