//! Skeleton.

pub mod expression;
