"""The front door, `import vidbench as vb`: videos, train, load, and what they return."""
