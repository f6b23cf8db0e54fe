"""The examples of assets/docs/extending.md: modules as yours could be in a package `mypackage`."""
