//! Numbers of services and backends. They index maps, and never mix.

/// Number of a service; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct ServiceId(pub u32);

/// Number of a backend *of one service*: the same server behind two services has two; 0 is none.
///
/// It indexes the backend table and the backend counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct BackendId(pub u32);

impl ServiceId {
    /// No service.
    pub const NONE: Self = Self(0);

    /// `None` for the number 0.
    pub const fn known(self) -> Option<Self> {
        if self.0 == 0 { None } else { Some(self) }
    }
}

impl BackendId {
    /// No backend.
    pub const NONE: Self = Self(0);

    /// `None` for the number 0.
    pub const fn known(self) -> Option<Self> {
        if self.0 == 0 { None } else { Some(self) }
    }
}
