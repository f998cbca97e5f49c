//! (being written)
/// Runs stock tools.
pub struct Tools;
/// Why a tool's result was not accepted.
#[derive(Debug, thiserror::Error)]
#[error("tool")]
pub struct ToolError;
