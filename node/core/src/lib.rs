//! Pure cores of Kvasir.
