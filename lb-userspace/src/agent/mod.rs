//! The agent.
mod desired;
