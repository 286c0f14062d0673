pub mod commands;
pub mod lab;
