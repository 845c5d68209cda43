//! How a program that holds its own C library finds hosts by name.
//!
//! glibc reads `/etc/nsswitch.conf` and loads what it names there, shared libraries of the machine. Into a static program
//! they fit only if they are of the very glibc that is in it; else the program may die in the middle of a look-up. So the
//! static one asks `/etc/hosts` and the name servers of `/etc/resolv.conf`, both of which are in itself (glibc since 2.34).

/// To be called before there is a second thread. A program that is not static is left alone.
pub fn look_up_names_alone() {
    #[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
    {
        use core::ffi::{CStr, c_char, c_int};
        unsafe extern "C" {
            /// nss.h
            fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
        }
        const HOSTS: &CStr = c"hosts";
        const SERVICES: &CStr = c"files dns";
        // SAFETY: two strings with their ends, which glibc only reads; no other thread looks anything up yet. If it fails
        // everything stays as it was.
        let _ = unsafe { __nss_configure_lookup(HOSTS.as_ptr(), SERVICES.as_ptr()) };
    }
}
