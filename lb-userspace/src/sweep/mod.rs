//! Which moving slots come to rest, and which flows under `fullnat` are over: pure.
//!
//! A slot moves until no flow of it can live with another than its current owner. Flows that have
//! records are found by walking through these ([`Survey`]); for those without one, the time tells:
//! whoever was quiet for longer than a flow may be quiet is none any more ([`Transition`]).

mod fullnat;
mod survey;
mod transition;

pub use fullnat::{FullnatPlan, FullnatSurvey};
pub use survey::{Extent, Survey, SurveyPlan};
pub use transition::Transition;
