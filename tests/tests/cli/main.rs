//! The local API and the commands that use it, without a data path.

mod api;
mod commands;
mod dashboard;
mod openapi;
mod remote;
mod roles;
mod secured;
mod support;
