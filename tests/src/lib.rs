//! Tests of xlb.
