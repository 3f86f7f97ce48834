//! Why somebody changes something, and whether even in a ChangeFreeze. Cold.

/// What every change may say.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Why {
    /// Why, for the history
    #[arg(short, long, value_name = "WHY")]
    message: Option<String>,
    /// Even in a ChangeFreeze, by those who may break it: the audit tells. Needs -m
    #[arg(long, requires = "message")]
    break_glass: bool,
}

impl Why {
    /// As parameters of the API.
    pub fn parameters(&self) -> [(&'static str, Option<&str>); 2] {
        [("message", self.message.as_deref()), ("breakGlass", self.break_glass.then_some("true"))]
    }
}
