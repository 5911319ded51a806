"""Services: environments and tools over OpenEnv and MCP."""
