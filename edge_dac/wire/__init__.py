"""Message classes and method paths of our gRPC services, in a descriptor pool of their own."""
