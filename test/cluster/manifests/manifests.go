// SPDX-License-Identifier: Apache-2.0

// Package manifests holds what the tests apply to the cluster beside deploy/.
package manifests

import "embed"

// Files are the manifests by name; those that end in .tmpl are templates.
//
//go:embed *.yaml *.tmpl
var Files embed.FS
