//! What clients notice while endpoints, pods, the daemon and its programs come and go: nothing.

#[cfg(test)]
mod scene;
#[cfg(test)]
mod traffic;

#[cfg(test)]
mod cleanup;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod exchange;
#[cfg(test)]
mod new_pods;
