//! The resources, the chart and the operator on a real API server without nodes.

mod chart;
mod operator;
mod release;
mod rules;
