"""The two stages of PureCC, and everything that they need before they run."""
