// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-net/patchbay/plugins/cni"
)

// Main is the plugin's program. It exits by itself with an error.
func Main() {
	cni.Main(cni.Verbs{Add: add, Del: Del, Check: Check, Status: Status, GC: GC}, "patchbay-ipam: addresses out of ranges, leases on the node")
}

func add(args *cni.Args) error {
	result, err := Add(args)
	if err != nil {
		return err
	}
	var conf struct {
		Version string `json:"cniVersion"`
	}
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return CNIError(fmt.Errorf("%w: %w", ErrConf, err))
	}
	return types.PrintResult(result, conf.Version)
}
