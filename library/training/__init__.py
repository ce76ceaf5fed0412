"""The two stages of PureCC, and everything that has to be in place before they run."""
