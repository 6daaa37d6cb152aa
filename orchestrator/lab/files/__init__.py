"""What runs on a lab's nodes, and in the root that becomes its image: read as text by the modules above."""
