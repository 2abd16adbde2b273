//go:build tools

// Package tools names the programs that scripts/cluster-tools.sh builds from this module; go.mod has their versions.
package tools

import (
	_ "helm.sh/helm/v4/cmd/helm"
)
